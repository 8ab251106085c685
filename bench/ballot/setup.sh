#!/usr/bin/env bash
# Installs what the benchmark compares with: PostgreSQL, Redis, wrk. With `swarm`: what the Swarm test needs.
set -euo pipefail
missing=()
need() { command -v "$1" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing+=("$2"); }
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
if [[ ${1:-} == swarm ]]; then
    need dockerd docker.io
    need ip iproute2
    need iptables iptables
    need busybox busybox-static
else
    need redis-server redis-server
    need wrk wrk
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
fi
((${#missing[@]})) || exit 0
echo "installing ${missing[*]}" >&2
apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
