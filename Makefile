# What there is to do here. `make` alone says it.
#
# Nothing is written into the clone but tests/*/node_modules: what is built and fetched lies in
# the cache, $SIDESTREAM_CACHE or ~/.cache/sidestream.

# One target after the other, also under -j: `make test` says which of its steps run beside each other.
.NOTPARALLEL:

CARGO := scripts/cargo

# What `make test` runs: first these; then three lists beside each other, since most of each is waiting
# (fuzzing, which is built elsewhere, comes early: beside a build, a processor is free; the others wait for
# that build); then what replaces the program that the others start.
FIRST := fmt-check lint
ENGINE := cargo-test
OUTSIDE := browser-test clients-test websocket-test asyncapi-test
AROUND := deny fuzz-lint fuzz-short helm-check check-docs torture-short bench-smoke
LAST := image-test

.PHONY: help
help: ## Show this
	@echo "make TARGET, where TARGET is"
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18 | sed 's/^/  /'

.PHONY: demo
demo: ## Build and start everything on this machine, and say what to open and try
	@scripts/demo

.PHONY: build
build: ## Build the sidestream binary (debug)
	$(CARGO) build

.PHONY: test
test: ## Everything that must pass; says at the end what each step took
	@scripts/steps "$(FIRST)" -- "$(ENGINE)" "$(OUTSIDE)" "$(AROUND)" -- "$(LAST)"

.PHONY: fmt-check
fmt-check: ## Is the Rust code formatted?
	$(CARGO) fmt --all -- --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml -- --check

.PHONY: lint
lint: ## Clippy; a warning is an error
	$(CARGO) clippy --all-targets -- -D warnings

.PHONY: fuzz-lint
# Where nothing else that is built beside it holds the lock.
fuzz-lint: export CARGO_TARGET_DIR := $(if $(SIDESTREAM_CACHE),$(SIDESTREAM_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/sidestream)/fuzz-target
fuzz-lint: ## The same for the fuzz targets
	@if [ -n "$$CI" ] || command -v c++ >/dev/null; then \
		$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --lib --bins -- -D warnings; \
	else \
		echo "SKIPPED: clippy for the fuzz targets, which need a C++ compiler"; \
	fi

.PHONY: cargo-test
# A panic's message says it; its frames would hide the others.
cargo-test: export RUST_BACKTRACE := 0
# Twice as many as CI has cores: most of a test is waiting.
cargo-test: export RUST_TEST_THREADS := 4
cargo-test: ## The Rust tests, against a real MongoDB
	mongod=$$(scripts/fetch-mongod) && MONGOD="$$mongod" $(CARGO) test
	@if mongod=$$(scripts/fetch-mongod --splitting); then \
		MONGOD="$$mongod" $(CARGO) test --test suite -- impossible::; \
	elif [ -n "$$CI" ]; then \
		exit 1; \
	else \
		echo "SKIPPED: large events on a server that splits them"; \
	fi

.PHONY: torture
torture: ## Break everything for a minute each, and check what 200 clients were told
	scripts/torture

.PHONY: torture-short
torture-short: ## The same in a minute, and whether the check finds what is wrong on purpose
	scripts/torture --short --seed 1

.PHONY: bench
bench: ## Load, beside the rivals that are installed (scripts/bench-rivals); half an hour
	scripts/bench

.PHONY: bench-smoke
bench-smoke: ## The same, small: every event to every client once
	scripts/bench --smoke

.PHONY: fuzz
fuzz: ## Fuzz what strangers send, 40 seconds for each target
	scripts/fuzz 40

.PHONY: fuzz-short
fuzz-short: ## The same from what earlier runs have found, 8 seconds for each
	scripts/fuzz 8

.PHONY: browser-test
browser-test: build ## The demo in a real browser
	scripts/browser-test

.PHONY: asyncapi-test
asyncapi-test: ## The AsyncAPI document, by AsyncAPI's own parser
	scripts/asyncapi-test

.PHONY: clients-test
clients-test: build ## Other people's clients and our own, and proxies in front, against the real thing
	scripts/clients-test

.PHONY: websocket-test
websocket-test: build ## Autobahn's WebSocket cases, through the proxy and on Sidestream's own endpoint
	scripts/websocket-test

.PHONY: check-docs
check-docs: build ## Run the commands and check the filters that the documentation shows
	scripts/check-docs
	scripts/bench-table --check

.PHONY: deny
deny: ## Licences and sources of the dependencies
	@if deny=$$(scripts/fetch-cargo-deny); then \
		"$$deny" check licenses bans sources; \
	elif [ -n "$$CI" ]; then \
		exit 1; \
	else \
		echo "SKIPPED: licences and sources of the dependencies"; \
	fi

.PHONY: helm-check
helm-check: build ## The chart and injected manifests, by the schemas of nine versions of Kubernetes
	scripts/check-helm

.PHONY: image-test
image-test: ## The container image's root, from a debug build, started as a container would be
	scripts/image-test

.PHONY: image
image: ## The same from a release build, in $SIDESTREAM_CACHE/image: what the Dockerfile puts into the image
	root=$${SIDESTREAM_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/sidestream}/image && \
		scripts/image-root "$$root" && scripts/image-test "$$root"

.PHONY: screenshot
screenshot: build ## Make docs/images/demo.png
	scripts/screenshot

.PHONY: clean
clean: ## Remove what was built and what runs left behind; fetched tools stay
	$(CARGO) clean
	rm -rf tests/browser/node_modules tests/clients/node_modules
	scripts/clean-cache
