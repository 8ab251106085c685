# Skep: `make run` shows it, `make test` proves it. Both install what they need first.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Our own tools (uv, cargo-deny) come first; see setup.sh.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

LISTEN ?= 127.0.0.1:8080
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help setup run test fmt lint unit e2e swarm tidy deny release clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what the examples need (Debian packages, uv)
	@./setup.sh run

run: setup ## Serve the example apps on http://127.0.0.1:8080 (LISTEN=… for another address)
	cargo build --package skep
	exec $(TARGET)/debug/skep serve examples/apps --listen $(LISTEN) --data-dir .run --stop-apps-on-exit

test: ## Install what is missing, then every check and every test, browser tests included
	@./setup.sh test
	@.ci/test

fmt: ## Format everything
	cargo fmt --all
	cd tests/e2e && npm run --silent format

lint: ## Formatting, clippy, tidy, licences, TypeScript
	@.ci/test fmt tidy deny clippy scripts

unit: ## The Rust tests
	@.ci/test build unit

e2e: ## The browser tests; ONLY=streamlit for one example
	@./setup.sh test
	@ONLY='$(ONLY)' .ci/test build e2e

swarm: ## A Docker Swarm of its own, with faults and visitors (root); ONLY='power-off cut' for some of it
	@./setup.sh test
	@ONLY='$(ONLY)' .ci/test build swarm

tidy: ## The house rules a compiler cannot see
	@cargo xtask tidy

deny: ## Dependencies: licences, bans, sources, advisories
	@.ci/test deny

release: ## The optimised binary, target/release/skep
	cargo build --release --locked --package skep

clean: ## Remove what was built, the data of `make run` included
	cargo clean
	rm -rf .run .tools tests/e2e/out tests/e2e/node_modules

-include apps/ballot/ballot.mk
-include bench/bench.mk
