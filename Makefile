# Every target works from a clean clone. `make help` lists them.

# One target directory outside the checkout, so that clones on a machine share what is built.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/tradewind/target
TOOLS := $(HOME)/.cache/tradewind/tools
BIN := $(CARGO_TARGET_DIR)/debug
DEMO_DIR ?= $(HOME)/.cache/tradewind/demo

# What `tradewind up` starts, and the CLI.
FEDERATION := -p cli -p dns-server -p global-plane-server -p region-plane-server
DAEMONS := $(FEDERATION) -p hello-rust -p region-plane-operator -p region-plane-runner
WITH_SKIPS := scripts/with-skips .ci/skips-allowed
CORES := dns-steering global-plane-prices global-plane-state region-plane-dispatch

.PHONY: help
help: ## This list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 26

.PHONY: setup
setup: ## Install what a bare Debian machine with a Rust toolchain lacks.
	@scripts/setup

.PHONY: build
build: setup ## Build the daemons and the CLI.
	@scripts/progress cargo build --locked $(DAEMONS)

.PHONY: demo
demo: setup ## Start a local federation, deploy the examples, call them through DNS.
	@scripts/progress cargo build --locked $(FEDERATION)
	@BIN=$(BIN) DEMO_DIR=$(DEMO_DIR) scripts/demo

.PHONY: demo-stop
demo-stop: ## Stop the federation that `make demo` started.
	@$(BIN)/tradewind up --dir $(DEMO_DIR) --stop

.PHONY: check
check: ## The quick half of what CI runs: format, lints, core dependencies, docs.
	cargo fmt --all --check
	@scripts/check-cores $(CORES)
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

.PHONY: test
test: build check helm ## Set up, then run every test that CI runs.
# What KUBECONFIG names may be somebody's cluster; tests of one are asked for by name.
	env -u KUBECONFIG -u KUBEBUILDER_ASSETS $(WITH_SKIPS) cargo test --locked --workspace

.PHONY: helm
helm:
	@scripts/install-helm $(TOOLS)

.PHONY: test-kubernetes
test-kubernetes: build helm ## Test a region on the cluster of KUBECONFIG, or on KUBEBUILDER_ASSETS's API server.
	$(WITH_SKIPS) cargo test --locked --no-fail-fast -p chaos-tests-kubernetes -- --nocapture --test-threads=1
	$(WITH_SKIPS) cargo test --locked -p chaos-tests-kube-api --test server both::a_real_server -- --nocapture

.PHONY: test-kubernetes-install
test-kubernetes-install: build helm ## Install the charts into the cluster of KUBECONFIG and call a function through them.
	$(WITH_SKIPS) cargo test --locked -p chaos-tests-kubernetes --test in_cluster -- --ignored --nocapture

.PHONY: test-upgrade
test-upgrade: setup ## Upgrade and roll back a federation under load: from the commit in deploy/upgrade-from, and to the next format.
	@scripts/test-upgrade

.PHONY: images
images: setup ## Write dist/images/NAME.tar: our images, runtimes and a test function.
	@scripts/images

.PHONY: deny
deny: ## Check licences, sources and banned crates.
	@scripts/install-deny $(TOOLS)
	$(TOOLS)/bin/cargo-deny --all-features check bans licenses sources

.PHONY: advisories
advisories: ## Check for known vulnerabilities (fetches the advisory database).
	@scripts/install-deny $(TOOLS)
	$(TOOLS)/bin/cargo-deny --all-features check advisories

.PHONY: worldmap
worldmap: ## Refresh the built-in world map (see docs/operating/world-map.md).
	dns/worldmap/refresh.sh

.PHONY: bench
bench: ## Measure calls beside nginx, cold starts, committed writes and DNS; prints a page of docs/measurements.

.PHONY: bench-replication
bench-replication: ## Measure how changes of functions reach the regions, with few and with many functions.

.PHONY: bench-steering
bench-steering: ## Simulate steering beside its optimum and other rules; prints tables, writes plots, of docs/measurements.
	cargo run --locked --release -p chaos-tests-sim -- docs/measurements/steering

# And bench-calls, bench-cold, bench-writes, bench-dns: a part of the page each.
BENCHES := bench $(addprefix bench-,calls cold writes dns replication)
.PHONY: $(BENCHES)
$(BENCHES): setup
	@scripts/install-rivals $(TOOLS)
	@scripts/progress cargo build --locked --release $(FEDERATION) -p hello-rust -p chaos-tests-bench
	$(CARGO_TARGET_DIR)/release/tradewind-bench $(patsubst bench-%,%,$(filter bench-%,$@))
