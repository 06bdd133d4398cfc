# `make` lists the targets.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BINARY = $(CARGO_TARGET_DIR)/release/millstream

.PHONY: help demo test soak docs lint plugins build clean

help:
	@echo "make demo     build, run the example over real webhooks, show what came of it"
	@echo "make test     all tests"
	@echo "make soak     the tests that kill, fail and press, with all their rounds"
	@echo "make lint     format and clippy, warnings as errors"
	@echo "make docs     write the reference under runtime/docs anew"
	@echo "make build    the binary, at target/release/millstream"
	@echo "make plugins  the built-in plugins, to WebAssembly"
	@echo "make clean    remove what was built and what the demo left"

plugins:
	plugins/build.sh

build: plugins
	cargo build --release --locked --package millstream

demo: plugins
	cargo build --release --locked --package millstream --no-default-features
	pipelines/demo.sh $(BINARY)

# The host and its tests share the build of the demo; plugins are tested natively, on their own.
test: plugins
	cargo test --release --locked --package millstream
	cargo test --locked --workspace --exclude millstream

soak: plugins
	MILLSTREAM_SOAK=1 cargo test --release --locked --package millstream --test e2e -- --nocapture

docs: build
	$(BINARY) components --write runtime/docs/reference

lint: plugins
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings

clean:
	cargo clean
	rm -rf target/plugins pipelines/out pipelines/.millstream
