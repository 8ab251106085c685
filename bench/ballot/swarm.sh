#!/usr/bin/env bash
# ballot on a real three-node Docker Swarm, on one machine: fronts scaled 2 -> 5 -> 3 and a worker added while people vote, a
# node powered off and on again. At the end the checker compares every answer with the count.
#   sudo bench/ballot/swarm.sh [VOTES [FOLDER FOR THE RESULT]]
# Needs root, docker.io, iproute2, busybox, PostgreSQL and target/release/ballot. Each node is a dockerd in a network namespace
# of its own; a bridge in a fourth one joins them. It deploys deploy/ballot-stack.yml; images are made from this machine's files,
# nothing is pulled. Nothing listens outside these namespaces, and nothing is left when it ends.
set -euo pipefail
cd "$(dirname "$0")/../.."

VOTES=${1:-60000}
RESULTS=${2:-}
BALLOT=${BALLOT:-target/release/ballot}
NET=10.97.0
NAME=bsw$$
DIR=$(mktemp -d /tmp/ballot-swarm-XXXXXX)
chmod 755 "$DIR"
say() { printf '%s %s\n' "$(date +%T)" "$*" | tee -a "$DIR/events" >&2; }
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

# libraries FOLDER PROGRAM…: copies what the programs are linked with.
libraries() {
    local folder=$1 library
    shift
    while read -r library; do
        mkdir -p "$folder$(dirname "$library")"
        cp -L "$library" "$folder$library"
    done < <(ldd "$@" | awk '/^\t/ { for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | sort -u)
    # Names are resolved by the C library.
    for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
        cp -L "$(dirname "$(ldconfig -p | grep -om1 '/.*/libc.so.6')")/$library" "$folder/lib/" 2>/dev/null || true
    done
    mkdir -p "$folder"/{etc,tmp,bin}
    chmod 1777 "$folder/tmp"
    echo 'hosts: files dns' >"$folder/etc/nsswitch.conf"
}

say "images from this machine's files: ballot, PostgreSQL"
BIN=$(compgen -G '/usr/lib/postgresql/*/bin' | tail -1)
mkdir -p "$DIR/ballot/usr/local/bin" "$DIR/ballot/var/lib/ballot"
cp "$BALLOT" "$DIR/ballot/usr/local/bin/ballot"
libraries "$DIR/ballot" "$BALLOT"
chown 65534:65534 "$DIR/ballot/var/lib/ballot"
tar -C "$DIR/ballot" -cf "$DIR/ballot.tar" .
for n in 1 2 3; do
    node "$n" import --change 'ENTRYPOINT ["/usr/local/bin/ballot"]' --change 'USER 65534:65534' --change \
        'ENV BALLOT_DATA_DIR=/var/lib/ballot BALLOT_LISTEN=0.0.0.0:8090' "$DIR/ballot.tar" ballot:test >/dev/null
done
# What the stack file asks of its PostgreSQL image: the user and the database that the environment names.
mkdir -p "$DIR/postgres$(dirname "$BIN")" "$DIR/postgres/usr/share/postgresql" "$DIR/postgres/var/lib/postgresql/data"
cp -a "$BIN" "$(dirname "$BIN")/lib" "$DIR/postgres$(dirname "$BIN")/"
rm -rf "$DIR/postgres$(dirname "$BIN")/lib/bitcode" "$DIR/postgres$(dirname "$BIN")/lib/"llvmjit*
cp -a "/usr/share/postgresql/$(basename "$(dirname "$BIN")")" "$DIR/postgres/usr/share/postgresql/"
cp -a --parents /usr/share/zoneinfo "$DIR/postgres"
libraries "$DIR/postgres" "$BIN"/{postgres,initdb,psql} "$(dirname "$BIN")/lib/libpqwalreceiver.so"
cp "$(command -v busybox)" "$DIR/postgres/bin/busybox"
ln -s busybox "$DIR/postgres/bin/sh"
echo 'postgres:x:999:999::/tmp:/bin/sh' >"$DIR/postgres/etc/passwd"
cat >"$DIR/postgres/start" <<END
#!/bin/sh
D=/var/lib/postgresql/data/main
if [ ! -f \$D/PG_VERSION ]; then
    $BIN/initdb -A trust -U \$POSTGRES_USER -E UTF8 --no-sync -D \$D
    echo 'host all all all trust' >>\$D/pg_hba.conf
    echo "create database \$POSTGRES_DB" | $BIN/postgres --single -D \$D postgres
fi
exec $BIN/postgres -D \$D -k /tmp -c 'listen_addresses=*' -c max_connections=200
END
chmod 755 "$DIR/postgres/start"
chown 999:999 "$DIR/postgres/var/lib/postgresql/data"
tar -C "$DIR/postgres" -cf "$DIR/postgres.tar" .
node 1 import --change 'ENTRYPOINT ["/start"]' --change 'USER 999:999' --change "ENV LC_ALL=C PATH=/bin:$BIN" \
    "$DIR/postgres.tar" postgres:test >/dev/null
rm -rf "$DIR/ballot" "$DIR/postgres" "$DIR"/*.tar

say "deploy/ballot-stack.yml, with two fronts"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' | node 1 secret create ballot-key - >/dev/null
node 1 config create ballot-polls-1 deploy/ballot-polls.toml >/dev/null
# All voters come from one container; and two fronts at first.
sed -e 's/"--drain-seconds", "60"/&, "--prefix-rate", "0"/' -e '0,/replicas: 3/s//replicas: 2/' deploy/ballot-stack.yml >"$DIR/stack.yml"
BALLOT_IMAGE=ballot:test POSTGRES_IMAGE=postgres:test node 1 stack deploy --resolve-image never -c "$DIR/stack.yml" ballot >/dev/null
running() { node 1 service ps -f desired-state=running --format '{{.CurrentState}}' "ballot_$1" 2>/dev/null | grep -c ^Running; }
until_running() {
    for _ in $(seq 300); do
        [[ $(running "$1") -ge $2 ]] && return
        sleep 0.3
    done
    node 1 service ps --no-trunc "ballot_$1" >&2
    node 1 service logs "ballot_$1" 2>&1 | tail -5 >&2
    return 1
}
scale() {
    local words=()
    for word in "$@"; do words+=("ballot_$word"); done
    node 1 service scale -d "${words[@]}" >/dev/null
}
until_running postgres 1
until_running front 2
until_running worker 2
until_running results 1
ask() {
    local container
    container=$(node 1 ps -q -f label=com.docker.swarm.service.name=ballot_postgres | head -1)
    node 1 exec "$container" psql -h 127.0.0.1 -U ballot -d ballot -Atc "$1" 2>/dev/null || true
}
until [[ $(ask 'select count(*) from logs') -ge 2 ]]; do sleep 0.3; done

say "$VOTES votes"
# Voters find the fronts by name, those that come later too.
node 1 service create -d --name load --replicas 1 --restart-condition none --constraint node.hostname==node1 \
    --network ballot_inside --endpoint-mode dnsrr --secret source=ballot-key,uid=65534 --no-resolve-image ballot:test load \
    --key-file /run/secrets/ballot-key --store postgres://ballot@postgres/ballot --fronts dns:tasks.front:8090 \
    --voters $((VOTES * 9 / 10)) --votes "$VOTES" --connections 48 --pause-ms 40 --seconds 900 --patience-ms 4000 >/dev/null
merged() { ask 'select coalesce(sum(position), 0)::bigint from logs'; }
until [[ $(merged) -ge $((VOTES / 20)) ]]; do sleep 0.5; done
say "fronts 2 -> 5, a third worker ($(merged) merged)"
scale front=5 worker=3
until_running front 5
until [[ $(merged) -ge $((VOTES / 4)) ]]; do sleep 0.5; done
say "fronts 5 -> 3 ($(merged) merged)"
scale front=3
until [[ $(merged) -ge $((VOTES * 4 / 10)) ]]; do sleep 0.5; done
say "node 3 loses power ($(merged) merged)"
power_off 3
sleep 12
say "node 3 is back"
power_on 3
# A front on it finds what was stranded there.
scale front=6
for _ in $(seq 1200); do
    state=$(node 1 service ps --format '{{.CurrentState}}' load | head -1)
    case $state in Complete* | Failed*) break ;; esac
    sleep 1
done
say "voting is over: $state; $(merged) merged"
node 1 service logs --raw load 2>/dev/null | grep '^{' | tail -1 >"$DIR/verdict.json"
[[ -s $DIR/verdict.json ]] || { node 1 service logs load 2>&1 | tail -20 >&2; exit 1; }
ask 'select front, position, seen_end, settled = 9223372036854775807 from logs order by front' >"$DIR/logs"
python3 - "$DIR" "$VOTES" "$RESULTS" <<'END'
import json, os, pathlib, platform, sys

folder, votes, results = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
report = json.loads((folder / "verdict.json").read_text())
report.pop("receipts")
logs = [line.split("|") for line in (folder / "logs").read_text().split()]
report["logs"] = [{"front": f, "merged": int(m), "seen": int(s), "drained_and_sealed": d == "t"} for f, m, s, d in logs]
report["events"] = (folder / "events").read_text().splitlines()
report["machine"] = {"cores": os.cpu_count(), "kernel": platform.release()}
text = json.dumps(report, indent=1)
print(text)
if results:
    pathlib.Path(results).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(results) / "swarm.json").write_text(text + "\n")
bad = {k: report["checked"][k] for k in ("lost", "wrong", "double", "foreign", "tally_off")}
print(f"{report['acknowledged']} acknowledged of {votes}: {bad}", file=sys.stderr)
sys.exit(any(bad.values()) or report["acknowledged"] != votes)
END
