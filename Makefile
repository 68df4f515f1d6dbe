# What one does with this repository; `make` lists it. Each target needs cargo and a C compiler and says so.
# Variables: EBBTIDE_PROGRAMS (a folder with built programs for `make packages`), EBBTIDE_REGISTRY and CONTAINER_TOOL (for
# `make image`), FUZZ_SECONDS (per fuzz target, 20), FUZZ_TARGETS (all), CHAOS_RUNS (10000),
# MACHINES (for `make test-vm`), EBBTIDE_PLANETLAB and EBBTIDE_OPENB (folders of traces
# for `make bench`, see docs/planner.md), and cargo's own, such as CARGO_TARGET_DIR.

.DEFAULT_GOAL := help
.PHONY: help up demo test test-devices test-kubernetes chaos lint bench fuzz ebpf packages test-packages image test-image sbom cross-aarch64
.PHONY: clean need-rust
MAKEFLAGS += --no-print-directory

# where rustup puts cargo, also in a shell that was open before
export PATH := $(PATH):$(HOME)/.cargo/bin
export FUZZ_SECONDS ?= 20
export FUZZ_TARGETS

say = printf '%s\n' "$(1)" >&2

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r t d; do printf '%-22s %s\n' "$$t" "$$d"; done

up: need-rust ## build everything, measure this machine, show it in a dashboard, until Ctrl-C
	@cargo build --release --locked -p ebbtide-agent -p ebbtide-fleet
	@exec tools/up "$${CARGO_TARGET_DIR:-target}/release"

test: need-rust ## run all tests (with cargo-nextest where it is installed)
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo test --locked --workspace --doc && cargo nextest run --locked --workspace; \
	else \
		cargo test --locked --workspace; \
	fi

test-devices: need-rust ## test the drivers of power hardware against simulators, in a Python venv that it makes
	@venv="$$(tools/device-simulators)" || exit 1; \
	for p in ipmitool ipmi_sim mosquitto mosquitto_sub; do command -v $$p >/dev/null 2>&1 || { \
		$(call say,make test-devices: $$p is missing; on Debian: apt-get install ipmitool openipmi mosquitto mosquitto-clients); exit 1; }; done; \
	EBBTIDE_DEVICES_VENV="$$PWD/$$venv" EBBTIDE_REQUIRE_DEVICES=1 cargo test --locked -p ebbtide-devices

test-kubernetes: need-rust ## test against the API server that KUBECONFIG names, in a namespace and on a node of its own
	@if [ -z "$$KUBECONFIG" ]; then \
		$(call say,make test-kubernetes: KUBECONFIG is not set; say KUBECONFIG=FILE make test-kubernetes$(,) with a user who may make namespaces and nodes); exit 2; fi; \
	if [ ! -r "$$KUBECONFIG" ]; then \
		$(call say,make test-kubernetes: the file that KUBECONFIG names can't be read); exit 2; fi; \
	KUBECONFIG="$$(realpath "$$KUBECONFIG")" cargo test --locked -p ebbtide-kubernetes --test real -- --include-ignored && \
	KUBECONFIG="$$(realpath "$$KUBECONFIG")" cargo test --locked -p ebbtide-fleet --test real_cluster -- --include-ignored

demo: need-rust ## show consolidation and power-down live in a dashboard, on played hardware, until Ctrl-C
	@exec cargo run --locked -p ebbtide-fleet --example demo

# PROGRAMS: folder of built programs (cargo's debug folder, and they are built if they aren't there). KUBECONFIG, if it is said
# here: a cluster for tests, whose API server checks the manifests, too.
.PHONY: test-deploy
test-deploy: ## test the Helm chart, the rules for Prometheus and the dashboards for Grafana with real programs, in a Python venv that it makes
	@for p in python3 prometheus promtool; do command -v $$p >/dev/null 2>&1 || { \
		$(call say,make test-deploy: $$p is missing; on Debian: apt-get install python3-venv prometheus); exit 1; }; done; \
	venv="$$(packaging/deploy-tests/venv)" || exit 1; \
	for part in rules chart confined dashboards $(if $(filter command,$(firstword $(origin KUBECONFIG))),apply); do \
		"$$venv/bin/python" packaging/test-$$part $(PROGRAMS) || exit 1; \
	done

chaos: need-rust ## let everything break around the executor, CHAOS_RUNS times (10000), each time in another way
	@cargo run --release --locked -q -p ebbtide-executor --example chaos -- --runs "$${CHAOS_RUNS:-10000}"

lint: need-rust ## format, clippy, documentation, and what dependencies may bring in
	@for c in fmt clippy; do cargo $$c --version >/dev/null 2>&1 || { \
		$(call say,make lint: cargo $$c is missing; get it with: rustup component add rustfmt clippy); exit 1; }; done
	@cargo fmt --all --check
	@cargo fmt --manifest-path fuzz/Cargo.toml --check
	@if command -v "$${CLANG:-clang-19}" >/dev/null 2>&1; then ebpf/build --check; else \
		$(call say,make lint: skipped the comparison of ebpf/*.o with their source: clang-19 is not installed); \
	fi
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	@if cargo deny --version >/dev/null 2>&1; then \
		cargo fetch --locked && \
		cargo deny --offline --all-features check --hide-inclusion-graph bans licenses sources; \
	else \
		$(call say,make lint: skipped the check of dependencies: cargo-deny is not installed (cargo install --locked cargo-deny)); \
	fi

bench: need-rust ## measure what agent and fleet daemon cost, and how accurate they are
	@cargo build --release --locked -p ebbtide-agent -p ebbtide-bench -p ebbtide-fleet
	@cargo run --release --locked -p ebbtide-bench -- --write
	@tools/fleet-bench.py "$${CARGO_TARGET_DIR:-target}/release/ebbtide-fleet"
	@tools/planner-bench.py "$${CARGO_TARGET_DIR:-target}/release/ebbtide-fleet"

ebpf: ## build the programs for the kernel that the agent carries (needs clang-19)
	@ebpf/build

fuzz: need-rust ## feed random bytes to each parser for FUZZ_SECONDS
	@command -v c++ >/dev/null 2>&1 || { \
		$(call say,make fuzz: a C++ compiler is missing; on Debian: apt-get install g++); exit 1; }
	@fuzz/run

packages: need-rust ## make .deb and .rpm packages in target/packages
	@packaging/packages

test-packages: need-rust ## install, run, upgrade and remove the packages, and what lintian and rpmlint say; as root
	@packaging/test/all

image: need-rust ## build the container images ebbtide-agent and ebbtide-fleet from static programs
	@packaging/image

test-image: need-rust ## build the container images, and start them with podman
	@images="$$(packaging/image)" && packaging/test/image $$images

sbom: need-rust ## tell what the programs are made of, in target/packages/*.cdx.json (CycloneDX)
	@mkdir -p target/packages
	@for p in ebbtide-agent ebbtide-fleet; do \
		packaging/sbom $$p "$$(rustc -vV | sed -n 's/^host: //p')" target/packages/$$p.cdx.json && echo target/packages/$$p.cdx.json || exit 1; done

cross-aarch64: need-rust ## build static programs for 64-bit ARM, and start them under qemu-user where that is installed
	@packaging/cross aarch64

cross-armv7: need-rust ## the same for 32-bit ARM
	@packaging/cross armv7

# unoptimised: what is compared doesn't depend on it
.PHONY: cross-armv7 test-aarch64 test-vm
test-aarch64: need-rust ## run the agent for 64-bit ARM under qemu-user, and compare what it finds with what this machine's does
	@programs="$$(EBBTIDE_PROFILE=dev packaging/cross aarch64 ebbtide-agent)" && packaging/test-aarch64 "$$programs/ebbtide-agent" $(PROGRAMS)

# MACHINES: such as "aarch64/trixie x86_64/bullseye"
test-vm: need-rust ## run the agent and its tests of BPF in virtual machines with other kernels, and on 64-bit ARM; as root
	@packaging/test/vm $(MACHINES)

clean: ## remove what was built, and what fuzzing found
	@if command -v cargo >/dev/null 2>&1; then cargo clean; fi
	@rm -rf fuzz/target fuzz/corpus fuzz/artifacts

.PHONY: book
book: ## make a site of the documents, in target/book (needs mdbook)
	@command -v mdbook >/dev/null 2>&1 || { \
		$(call say,make book: mdbook is missing; get it with: cargo install --locked mdbook); exit 1; }
	@mdbook build
	@$(call say,target/book/index.html)

need-rust:
	@command -v cargo >/dev/null 2>&1 || { \
		$(call say,cargo is missing; get it from https://rustup.rs$(,) which also brings the right version for this repository); exit 1; }
	@command -v cc >/dev/null 2>&1 || { \
		$(call say,a C compiler (cc) is missing; on Debian: apt-get install gcc libc6-dev); exit 1; }

# a comma within $(call …)
, := ,
