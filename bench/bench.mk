# What takes longer than tests may: fuzzing, measuring, soaking, attacking. The Makefile includes this file.

SECONDS ?= 60
MINUTES ?= 15
.PHONY: fuzz bench bench-launch soak attack

fuzz: ## Every fuzz target for SECONDS each
	fuzz/run.sh $(SECONDS)

bench: ## Skep's edge against nginx, HAProxy and Traefik; the result goes to bench/results, tables and plots to docs
	@bench/edge/setup.sh
	cargo build --release --locked --package skep
	file=$$(python3 bench/edge/bench.py --out bench/results) && echo "$$file" && python3 bench/edge/report.py "$$file"

bench-launch: ## From a click to the first byte of a container, on Docker and on a Swarm, beside the engine alone (root)
	cargo build --release --locked --package skep
	python3 bench/launch/bench.py --out bench/results

soak: ## Real apps and visitors for MINUTES, with a kill -9 of Skep each minute
	@./setup.sh run
	cargo build --release --locked --package skep
	python3 bench/soak/soak.py --minutes $(MINUTES) --out bench/results/soak.json

attack: ## slowhttptest and sslyze against the release build
	@bench/edge/setup.sh
	cargo build --release --locked --package skep
	python3 bench/edge/attack.py --out bench/results/attack.json
