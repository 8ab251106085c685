#!/usr/bin/env bash
# ballot on a real three-node Docker Swarm, on one machine: fronts scaled 2 -> 5 -> 3 and a worker added while people vote, a
# node powered off and on again. At the end the checker compares every answer with the count.
#   sudo bench/ballot/swarm.sh [VOTES]
# Needs root, docker.io, iproute2, PostgreSQL and target/release/ballot. Each node is a dockerd in a network namespace of its
# own; a bridge in a fourth one joins them. Nothing listens outside these namespaces, and nothing is left when it ends.
set -euo pipefail
cd "$(dirname "$0")/../.."

VOTES=${1:-60000}
BALLOT=${BALLOT:-target/release/ballot}
NET=10.97.0
NAME=bsw$$
DIR=$(mktemp -d /tmp/ballot-swarm-XXXXXX)
chmod 755 "$DIR"
say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
node() { local n=$1; shift; docker -H "unix://$DIR/$n/docker.sock" "$@"; }
inside() { local space=$1; shift; nsenter --net="/run/netns/$NAME-$space" "$@"; }

# Every process whose files or command line are under our folder, and what runs in our cgroups.
processes() {
    local n=$1 file
    pgrep -f -- "$DIR/$n/" || true
    while read -r file; do cat "$file"; done < <(find /sys/fs/cgroup -path "*/$NAME-$n/*" -name cgroup.procs 2>/dev/null)
}

end() {
    set +e
    local n mount
    for n in 1 2 3; do
        processes "$n" | sort -u | xargs -r kill -9 2>/dev/null
    done
    [[ -f $DIR/pg.pid ]] && kill -9 "$(cat "$DIR/pg.pid")" 2>/dev/null
    sleep 1
    for n in 1 2 3; do
        processes "$n" | sort -u | xargs -r kill -9 2>/dev/null
        ip netns del "$NAME-$n" 2>/dev/null
    done
    ip netns del "$NAME-hub" 2>/dev/null
    while read -r mount; do umount "$mount" 2>/dev/null; done < <(awk -v d="$DIR/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r)
    find /sys/fs/cgroup -depth -type d -path "*/$NAME-[123]*" -exec rmdir {} \; 2>/dev/null
    [[ -n ${KEEP:-} ]] || rm -rf "$DIR"
}
trap end EXIT

power_on() {
    local n=$1
    mkdir -p "$DIR/$n"
    rm -f "$DIR/$n/dockerd.pid" "$DIR/$n/exec/containerd/containerd.pid"
    inside "$n" unshare --mount --uts --propagation private sh -c "
        mount -t tmpfs tmpfs /run && hostname node$n && exec env DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1 dockerd \
        --data-root $DIR/$n/data --exec-root $DIR/$n/exec -H unix://$DIR/$n/docker.sock --pidfile $DIR/$n/dockerd.pid \
        --cgroup-parent /$NAME-$n" >>"$DIR/$n/dockerd.log" 2>&1 &
    for _ in $(seq 200); do
        node "$n" version >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -5 "$DIR/$n/dockerd.log" >&2
    return 1
}

# Everything of the node dies at once: daemons, shims, containers.
power_off() { processes "$1" | sort -u | xargs -r kill -9; }

say "three nodes"
ip netns add "$NAME-hub"
inside hub sh -c "ip link set lo up; ip link add br0 type bridge; ip addr add $NET.254/24 dev br0; ip link set br0 up"
for n in 1 2 3; do
    ip netns add "$NAME-$n"
    ip link add "bh$n-$$" type veth peer name "bn$n-$$"
    ip link set "bh$n-$$" netns "$NAME-hub"
    ip link set "bn$n-$$" netns "$NAME-$n"
    inside hub sh -c "ip link set bh$n-$$ master br0 up"
    inside "$n" sh -c "ip link set lo up; ip link set bn$n-$$ name eth0; ip addr add $NET.$n/24 dev eth0; ip link set eth0 up
        ip route add default via $NET.254"
    power_on "$n"
done
node 1 swarm init --advertise-addr $NET.1 --listen-addr $NET.1:2377 --dispatcher-heartbeat 1s >/dev/null
TOKEN=$(node 1 swarm join-token -q worker)
for n in 2 3; do
    node "$n" swarm join --advertise-addr $NET.$n --listen-addr $NET.$n:2377 --token "$TOKEN" $NET.1:2377 >/dev/null
done

say "the image: ballot and the libraries it needs"
mkdir -p "$DIR/image"/{etc,tmp,usr/local/bin,var/lib/ballot}
cp "$BALLOT" "$DIR/image/usr/local/bin/ballot"
while read -r library; do
    mkdir -p "$DIR/image$(dirname "$library")"
    cp -L "$library" "$DIR/image$library"
done < <(ldd "$BALLOT" | grep -o '/[^ ]*')
# Names are resolved by the C library.
for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
    cp -L "/lib/x86_64-linux-gnu/$library" "$DIR/image/lib/x86_64-linux-gnu/" 2>/dev/null || true
done
echo 'hosts: files dns' >"$DIR/image/etc/nsswitch.conf"
tar -C "$DIR/image" -cf "$DIR/image.tar" .
for n in 1 2 3; do
    node "$n" import --change 'ENTRYPOINT ["/usr/local/bin/ballot"]' \
        --change 'ENV BALLOT_DATA_DIR=/var/lib/ballot BALLOT_LISTEN=0.0.0.0:8090 RUST_LOG=info' "$DIR/image.tar" ballot:test >/dev/null
done

say "PostgreSQL beside the Swarm"
BIN=$(compgen -G '/usr/lib/postgresql/*/bin' | tail -1)
mkdir "$DIR/pg" && chown postgres "$DIR/pg"
AS_POSTGRES=(setpriv --reuid postgres --regid postgres --clear-groups)
(cd "$DIR/pg" && "${AS_POSTGRES[@]}" "$BIN/initdb" -A trust -U postgres -E UTF8 --no-sync -D "$DIR/pg/data" >/dev/null)
echo "host all all $NET.0/24 trust" >>"$DIR/pg/data/pg_hba.conf"
(cd "$DIR/pg" && exec nsenter --net="/run/netns/$NAME-hub" "${AS_POSTGRES[@]}" "$BIN/postgres" -D "$DIR/pg/data" -k "$DIR/pg" \
    -c listen_addresses=$NET.254 -c max_connections=200) >"$DIR/pg.log" 2>&1 &
echo $! >"$DIR/pg.pid"
until inside hub psql -h $NET.254 -U postgres -Atc 'create database ballot' >/dev/null 2>&1; do sleep 0.2; done
STORE=postgres://postgres@$NET.254/ballot

say "the stack: two fronts, two workers"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' | node 1 secret create ballot-key - >/dev/null
node 1 config create polls deploy/ballot-polls.toml >/dev/null
node 1 network create -d overlay --attachable inside >/dev/null
COMMON=(-d --network inside --endpoint-mode dnsrr --secret ballot-key -e BALLOT_KEY_FILE=/run/secrets/ballot-key
    --restart-delay 500ms --no-resolve-image)
node 1 service create --name front --replicas 2 --stop-grace-period 75s --mount type=volume,src=front,dst=/var/lib/ballot \
    -e 'BALLOT_NAME={{.Node.Hostname}}-{{.Task.Slot}}' "${COMMON[@]}" ballot:test front --prefix-rate 0 --voter-rate 0 \
    --drain-seconds 60 >/dev/null
node 1 service create --name worker --replicas 2 --config src=polls,target=/polls.toml -e "BALLOT_STORE=$STORE" "${COMMON[@]}" \
    ballot:test worker --polls /polls.toml --fronts dns:tasks.front:8090 >/dev/null
running() { node 1 service ps -f desired-state=running --format '{{.CurrentState}}' "$1" 2>/dev/null | grep -c ^Running; }
until_running() {
    for _ in $(seq 300); do
        [[ $(running "$1") -ge $2 ]] && return
        sleep 0.3
    done
    node 1 service ps --no-trunc "$1" >&2
    return 1
}
until_running front 2
until_running worker 2
ask() { inside hub psql -h $NET.254 -U postgres -d ballot -Atc "$1" 2>/dev/null || true; }
until [[ $(ask 'select count(*) from logs') -ge 2 ]]; do sleep 0.3; done

say "$VOTES votes"
# Each connection asks for the fronts' addresses anew, so voters go where fronts are.
FRONTS=$(printf 'tasks.front:8090,%.0s' $(seq 6))
node 1 service create -d --name load --replicas 1 --restart-condition none --constraint node.hostname==node1 --network inside \
    --secret ballot-key --no-resolve-image ballot:test load --key-file /run/secrets/ballot-key --store "$STORE" \
    --fronts "${FRONTS%,}" --voters $((VOTES * 9 / 10)) --votes "$VOTES" --connections 48 --pause-ms 40 --seconds 900 \
    --patience-ms 4000 >/dev/null
merged() { ask 'select coalesce(sum(position), 0)::bigint from logs'; }
until [[ $(merged) -ge $((VOTES / 20)) ]]; do sleep 0.5; done
say "fronts 2 -> 5, a third worker ($(merged) merged)"
node 1 service scale -d front=5 worker=3 >/dev/null
until_running front 5
until [[ $(merged) -ge $((VOTES / 4)) ]]; do sleep 0.5; done
say "fronts 5 -> 3 ($(merged) merged)"
node 1 service scale -d front=3 >/dev/null
until [[ $(merged) -ge $((VOTES * 4 / 10)) ]]; do sleep 0.5; done
say "node 3 loses power ($(merged) merged)"
power_off 3
sleep 12
say "node 3 is back"
power_on 3
# A front on it finds what was stranded there.
node 1 service scale -d front=6 >/dev/null
for _ in $(seq 1200); do
    state=$(node 1 service ps --format '{{.CurrentState}}' load | head -1)
    case $state in Complete* | Failed*) break ;; esac
    sleep 1
done
say "voting is over: $state; $(merged) merged"
node 1 service logs --raw load 2>/dev/null | grep '^{' | tail -1 >"$DIR/verdict.json"
[[ -s $DIR/verdict.json ]] || { node 1 service logs load 2>&1 | tail -20 >&2; exit 1; }
cat "$DIR/verdict.json"
ask 'select front, position, seen_end, settled = 9223372036854775807 as finished from logs order by front' >&2
python3 - "$DIR/verdict.json" "$VOTES" <<'END'
import json, sys
report = json.load(open(sys.argv[1]))
checked = report["checked"]
bad = {k: checked[k] for k in ("lost", "wrong", "double", "foreign", "tally_off")}
print(f"{report['acknowledged']} acknowledged of {sys.argv[2]}, failures {report['failures']}: {bad}")
sys.exit(any(bad.values()) or report["acknowledged"] != int(sys.argv[2]))
END
