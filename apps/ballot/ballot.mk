# Targets of apps/ballot; the Makefile includes this file.

BALLOT_LISTEN ?= 127.0.0.1:8090

.PHONY: run-ballot

run-ballot: ## Serve the voting system on http://127.0.0.1:8090 (BALLOT_LISTEN=… for another address)
	cargo build --package ballot
	exec $(TARGET)/debug/ballot all --listen $(BALLOT_LISTEN) --data-dir .run/ballot
