# Targets of apps/ballot; the Makefile includes this file.

BALLOT_LISTEN ?= 127.0.0.1:8090
SEEDS ?= 2000
VOTES ?= 1000000
VIEWERS ?= 10000

.PHONY: run-ballot sim-ballot faults-ballot bench-ballot viewers-ballot peer-faults-ballot

run-ballot: ## Serve the voting system on http://127.0.0.1:8090
	cargo build --package ballot
	exec $(TARGET)/debug/ballot all --listen $(BALLOT_LISTEN) --data-dir .run/ballot

sim-ballot: ## Simulated deployments of ballot, SEEDS of them
	BALLOT_SEEDS=$(SEEDS) cargo test --workspace --features ballot/sim --test sim -- --nocapture

faults-ballot: ## VOTES votes while ballot's processes and its database are killed
	BALLOT_VOTES=$(VOTES) cargo test --release --package ballot --test it processes -- --nocapture

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
