# Targets of apps/ballot; the Makefile includes this file.

BALLOT_LISTEN ?= 127.0.0.1:8090
SEEDS ?= 2000
VOTES ?= 1000000
VIEWERS ?= 10000
FUZZ_SECONDS ?= 1800
SWARM_VOTES ?= 60000

.PHONY: run-ballot sim-ballot faults-ballot bench-ballot viewers-ballot peer-faults-ballot swarm-ballot fuzz-ballot

run-ballot: ## Serve the voting system on http://127.0.0.1:8090
	cargo build --package ballot
	exec $(TARGET)/debug/ballot all --listen $(BALLOT_LISTEN) --data-dir .run/ballot

sim-ballot: ## Simulated deployments of ballot, SEEDS of them
	BALLOT_SEEDS=$(SEEDS) cargo test --workspace --features ballot/sim --test sim -- --nocapture

faults-ballot: ## VOTES votes while ballot's processes and its database are killed
	cargo build --release --package ballot
	BALLOT_BIN=$(abspath $(TARGET))/release/ballot BALLOT_VOTES=$(VOTES) cargo test --package ballot --test it killed -- --nocapture

fuzz-ballot: ## Fuzz ballot's log recovery, cookies and tickets for FUZZ_SECONDS
	apps/ballot/fuzz/run.sh $(FUZZ_SECONDS)

bench-ballot: ## Ballot against the 2016 design; the result goes to bench/ballot/results
	@bench/ballot/setup.sh
	cargo build --release --package ballot
	python3 bench/ballot/bench.py --out bench/ballot/results

viewers-ballot: ## What VIEWERS viewers of live results cost
	@bench/ballot/setup.sh
	cargo build --release --package ballot
	python3 bench/ballot/bench.py --viewers $(VIEWERS) --out bench/ballot/results

peer-faults-ballot: ## The checker's judgement of the 2016 design under kill -9
	@bench/ballot/setup.sh
	cargo build --release --package ballot
	python3 bench/ballot/bench.py --faults 6000 --out bench/ballot/results

swarm-ballot: ## Ballot on a three-node Docker Swarm of its own, scaled and powered off while people vote (root)
	@bench/ballot/setup.sh swarm
	cargo build --release --package ballot
	bench/ballot/swarm.sh $(SWARM_VOTES) bench/ballot/results
