# `make` lists the targets.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BINARY = $(CARGO_TARGET_DIR)/release/millstream
BUILT_INS = $(notdir $(patsubst %/Cargo.toml,%,$(wildcard plugins/*/Cargo.toml)))

.PHONY: help demo test bench soak fuzz docs lint deny audit plugins built-ins languages build clean

help:
	@echo "make demo     build, run the example over real webhooks, show what came of it"
	@echo "make test     all tests"
	@echo "make bench    speed and memory beside native controls"
	@echo "make soak     the tests that kill, fail and press, with all their rounds; the fuzzers, a minute each"
	@echo "make fuzz     the fuzzers, some seconds each"
	@echo "make lint     format and clippy, warnings as errors"
	@echo "make deny     licences and sources of what is depended on"
	@echo "make audit    its known flaws, from the network"
	@echo "make docs     write the reference under runtime/docs anew"
	@echo "make build    the binary, at target/release/millstream"
	@echo "make plugins  the plugins, those of the tests too, to WebAssembly"
	@echo "make languages  the plugins in JavaScript and Python, and their fixtures"
	@echo "make clean    remove what was built and what the demo left"

plugins:
	plugins/build.sh

# Without the plugins of the tests.
built-ins:
	plugins/build.sh $(BUILT_INS)

# Their toolchains are installed under target/.
languages: build
	for plugin in $(dir $(wildcard plugins/*/build.sh)); do \
		$$plugin/build.sh && $(BINARY) plugin test --no-build $$plugin || exit 1; \
	done

build: built-ins
	cargo build --release --locked --package millstream

# The demo reads and writes files alone.
DEMO_FEATURES ?= --no-default-features

demo: built-ins
	cargo build --release --locked --package millstream $(DEMO_FEATURES)
	pipelines/demo.sh $(BINARY)

# Says how many rounds were made, and with which seeds. All in the profile of the demo, with which they
# share what both need. Plugins are tested natively, apart from the host: together, each would get the features
# that any of them asks of a common dependency.
test: plugins
	cargo test --release --locked --package millstream -- --show-output
	cargo test --release --locked --workspace --exclude millstream --exclude millstream-fuzz

soak: plugins
	MILLSTREAM_SOAK=1 cargo test --release --locked --package millstream --lib -- transaction_tests
	MILLSTREAM_SOAK=1 cargo test --release --locked --package millstream --test e2e -- --nocapture
	runtime/fuzz/run.sh 60

fuzz: plugins
	runtime/fuzz/run.sh 5

bench: plugins
	cargo bench --locked --package millstream
	cargo bench --locked --package millstream-formats --bench formats

docs: build
	$(BINARY) components --write runtime/docs/reference

lint: plugins
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- --deny warnings
	cargo clippy --release --locked --package millstream --no-default-features -- --deny warnings

deny:
	.ci/deny.sh

audit:
	.ci/deny.sh audit

clean:
	cargo clean
	rm -rf target/plugins pipelines/out pipelines/.millstream
