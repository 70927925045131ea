# What people and CI run. `make help` lists it.

SHELL := bash
CARGO ?= cargo

.PHONY: help run keycloak-demo test test-unit test-e2e test-versions test-kubernetes test-image test-compose image slow fuzz test-env check bench bench-instructions bench-mlflow bench-replicas clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

run: needs-cargo ## build, then MLflow and the proxy on this machine, with a first token
	@echo "Building the proxy without optimisation: some minutes the first time, seconds afterwards. For a server: cargo install --locked --path ."
	@$(CARGO) build --profile quick --locked
	@exec "$${CARGO_TARGET_DIR:-target}/quick/mlflow-auth-proxy" quickstart $(ARGS)

keycloak-demo: needs-cargo ## Keycloak with the example's realm, MLflow and the proxy on this machine, without containers
	@exec examples/keycloak/demo.sh $(ARGS)

test: needs-cargo ## everything; the last line sums it up
	@scripts/test all

test-unit: needs-cargo ## Rust: unit, property, edge and integration tests
	@scripts/test unit

test-e2e: needs-cargo ## real MLflow, real client; PYTEST='-k story' narrows it
	@scripts/test e2e

test-versions: needs-cargo ## every MLflow we know, old and new: its routes, its server, its client; installs them once
	@scripts/test versions

test-kubernetes: needs-cargo ## the Helm chart and the manifests, also on a real node that it starts as root; PYTEST='-k gateway' narrows it
	@scripts/test kubernetes

image: ## the container image mlflow-auth-proxy:VERSION, with the commit in its labels
	@scripts/image

test-image: needs-cargo ## the container image: built, and run without rights; needs Docker, or root on Debian
	@scripts/test image

test-compose: needs-cargo ## deploy/compose: every part started, used by a real client, restarted, backed up; needs the same and Go
	@scripts/test compose

slow: needs-cargo ## thousands of generated requests: what was decided about is what MLflow acts on
	@scripts/test slow

fuzz: needs-cargo ## the parsers of untrusted input, FUZZ_SECONDS=60 each; FUZZ_TARGET=jwt alone
	@scripts/fuzz

test-env: ## the private Python environment of the end-to-end tests
	@scripts/test-env.sh

check: needs-cargo ## format, lints, documentation, licences, unused crates, spelling; installs its tools once
	@scripts/check

bench: needs-cargo ## this proxy beside a do-nothing one and bare upstream
	@if [ -x benches/run ]; then exec benches/run $(ARGS); else echo "benches/run is not there"; exit 1; fi

bench-instructions: needs-cargo ## instructions per request, on SQLite and PostgreSQL, beside a do-nothing proxy
	@benches/instructions

bench-mlflow: needs-cargo ## a real MLflow with and without the proxy in front
	@benches/mlflow

bench-replicas: needs-cargo ## how long a change takes to be in force on other replicas; ARGS=sizing: what a large store costs
	@benches/replicas $(ARGS)

clean: ## what was built here; the private Python environment stays
	$(CARGO) clean
	find tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: needs-cargo
needs-cargo:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing. Install it with rustup (the file Cargo.toml says which version), then try again."; exit 1; }
