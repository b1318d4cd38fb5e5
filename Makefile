# What people and CI run. `make help` lists it.

.PHONY: help demo test lint bench soak fresh fuzz

help: ## list the targets
	@sed -n 's/^\([a-z][a-z%-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

demo: ## install what is needed, build, and show the whole job from disks to a running VM
	@scripts/install-deps demo
	@echo "building (some minutes the first time)"
	@cargo build --release --quiet --locked -p weft -p weft-tests --bin weft --bin linux-guest
	@scripts/demo-guest target/demo
	@scripts/demo

test: ## install what is needed, then build and run every test
	@scripts/test

lint: ## format, lints, architecture, licences and duplicate dependencies
	@scripts/lint

benches = $(sort $(patsubst tests/bench/%.rs,%,$(wildcard tests/bench/*.rs)))

bench: ## every table of ours against the rivals
	@scripts/install-deps bench
	@for name in $(benches); do $(MAKE) --no-print-directory bench-$$name || exit 1; done

bench-%: ## one table, as bench-parity
	@cargo build --release --quiet -p weft
	@cargo bench --quiet -p weft-tests --bench $*

soak: ## the seeded tests with many more seeds (SEEDS=N)
	@scripts/install-deps test
	@WEFT_SEEDS=$(or $(SEEDS),2000) cargo test --release --workspace --no-fail-fast

fresh: ## prove demo and test in a clean Debian root (as root)
	@scripts/fresh

fuzz: ## each fuzz target for a few seconds (SECONDS_EACH=N, TARGETS="a b")
	@scripts/fuzz
