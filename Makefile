# One command each. `make demo` and `make test` need nothing but a Debian 12 machine (root, for the
# packages): they set up what is missing and nothing else.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# What the installed package is compiled from; Python sources are used in place.
COMPILED := setup.py pyproject.toml CMakeLists.txt CMakePresets.json $(shell find proto -name '*.proto') \
  blockd/rpc/generate.py blockd/model/generate.py $(shell find blockd/native -name '*.p[yx][xdi]') \
  $(shell find cext -path cext/tests -prune -o -path cext/fuzz -prune -o -path cext/bench -prune \
          -o \( -name '*.cc' -o -name '*.h' -o -name '*.def' \) -print)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

.PHONY: packages
packages:
	@scripts/setup-apt.sh

$(VENV)/.ready: pyproject.toml scripts/setup-venv.sh | packages
	scripts/setup-venv.sh $(VENV)
	touch $@

build/.installed: $(COMPILED) $(VENV)/.ready
	mkdir -p build
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

.PHONY: build
build: packages build/.installed ## native core, Cython border, gRPC stubs, `blockd` and `blockctl` in .venv/bin

.PHONY: demo
demo: build ## three sites on this machine with a volume attached; Ctrl-C ends it
	$(VENV)/bin/blockd dev demo

.PHONY: test
test: build ## every test but the long ones
	scripts/test.sh

.PHONY: soak
soak: build ## the long tests: many more seeds, longer fuzzing, cluster soak (SOAK_SECONDS=600)
	scripts/soak.sh

.PHONY: bench
bench: build ## kernels, then fio against blockd and its rivals (ARGS="--rounds 5 --only ...")
	$(PYTHON) -m pytest bench --benchmark-only -q -p no:cacheprovider
	$(PYTHON) -m bench.compare $(ARGS)

.PHONY: lint
lint: build ## clang-format, ruff, mypy: complains, changes nothing
	scripts/lint.sh

.PHONY: format
format: $(VENV)/.ready ## rewrites sources as lint wants them
	scripts/lint.sh --fix

.PHONY: asan tsan
asan tsan: packages ## C++ tests under ASan+UBSan, under TSan
	scripts/ctest.sh $@

.PHONY: sim
sim: packages ## the cluster simulator (BLOCKD_SEEDS=1000; SEED=n replays one life of the swarm)
ifdef SEED
	cmake --preset release >/dev/null && cmake --build --preset release --target test_sim
	BLOCKD_SEED=$(SEED) build/release/test_sim --test-case='a swarm of lives*'
else
	scripts/ctest.sh release sim
endif

.PHONY: sim-coverage
sim-coverage: packages ## what the simulator's lives never reached of the replication core (ARGS="--lives 300")
	python3 scripts/sim_coverage.py $(ARGS)

.PHONY: model
model: packages ## the protocol's model, checked with spin (ARGS="large", ARGS="two-links --mutant NO_FENCE")
	scripts/model.py $(ARGS)

.PHONY: mutants
mutants: packages ## bugs planted on purpose, each of which the simulator must find (ARGS="--list")
	python3 scripts/mutants.py $(ARGS)

.PHONY: fuzz
fuzz: packages ## every libFuzzer target for FUZZ_SECONDS (60) each
	scripts/fuzz.sh $${FUZZ_SECONDS:-60}

.PHONY: clean
clean: ## removes what was built, keeps .venv
	rm -rf build
	find blockd -name '*.so' -delete
