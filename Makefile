# The doors of the project. `make bootstrap` installs what a fresh Debian 12 lacks; the others call it.
SHELL := /bin/bash
CARGO ?= cargo

.PHONY: bootstrap run demo test check fix sim turmoil chaos upgrade-test bench failover size flood soak busy broken fuzz deny

bootstrap:        ## install what is missing, and say what
	@scripts/bootstrap

run: bootstrap    ## build, and run three nodes on loopback with demo users until Ctrl-C
	$(CARGO) build --release --bin tandem
	target/release/tandem dev

demo: bootstrap   ## a call between two built-in phones outlives its node
	$(CARGO) build --release --bin tandem
	target/release/tandem demo $(ARGS)

test: bootstrap   ## every test: the pure parts, the shells, and real phones while nodes are killed
	$(CARGO) nextest run
	$(CARGO) nextest run --features simulated --test turmoil

check: bootstrap  ## format, lints, documentation, layers, dependencies; writes nothing
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --features simulated --lib --test turmoil -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --lib
	$(CARGO) nextest run --test layers
	git apply --check tests/chaos/broken/*.patch
	$(MAKE) --no-print-directory deny

fix:              ## what can be mended by machine
	$(CARGO) fmt
	$(CARGO) clippy --all-targets --fix --allow-dirty --allow-staged

sim: bootstrap    ## calls cut at every point, and 10,000 random schedules; SEED=n replays one
	SCHEDULES=$${SCHEDULES:-10000} SEED=$(SEED) $(CARGO) nextest run --release --test sim

# In a build in which tokio's dice are seeded too: a seed gives the same run, to the millisecond.
turmoil: bootstrap ## the cluster engine in a simulated network, under faults drawn from seeds; SEED=n replays one
	SCHEDULES=$${SCHEDULES:-200} SEED=$(SEED) $(CARGO) nextest run --features simulated --test turmoil \
		--config 'target."cfg(all())".rustflags=["--cfg","tokio_unstable"]'

chaos: bootstrap  ## only the tests with real processes that die
	$(CARGO) nextest run --test chaos

upgrade-test: bootstrap ## three nodes restart one after another under load, and no call notices
	$(CARGO) nextest run --test chaos -E 'test(restart_one_after_another)'

bench: bootstrap  ## figures, each beside a peer or a floor in the same run
	scripts/bench

failover: bootstrap ## the gaps in a hundred calls while their node dies, freezes, is cut off, or hands over, and in a thousand; RUNS says how often
	$(CARGO) bench --bench failover

size: bootstrap   ## a takeover of 10,000 calls and 100,000 registrations, and what they cost in memory
	$(CARGO) bench --bench size

flood: bootstrap  ## 20,000 packets a second from one source, and what they do to the calls of others
	$(CARGO) bench --bench flood

soak: bootstrap   ## an hour of calls with a fault every twenty seconds, and what the checker finds; SECONDS says how long
	$(CARGO) bench --bench soak

busy: bootstrap   ## an hour of two busy loops a core, and how many elections they cause; BUSY_SECONDS says how long
	BUSY_SECONDS=$${BUSY_SECONDS:-3600} $(CARGO) nextest run --test chaos --no-capture -E 'test(busy_machine)'

broken: bootstrap ## builds in which a rule is broken on purpose, and what the checker of histories finds in each
	scripts/broken

fuzz:             ## the parsers, the transactions and whole calls under input that a fuzzer makes up: seven, FUZZ_S seconds each
	@NEED_FUZZ=1 scripts/bootstrap
	scripts/fuzz

deny:             ## licences, sources and versions of what we depend on
	@NEED_DENY=1 scripts/bootstrap
	$(CARGO) deny --log-level error check bans licenses sources
