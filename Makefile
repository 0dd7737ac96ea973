# Two commands: `make repro` runs the pipeline, `make test` checks the project. Both make .venv first when it is missing or out of date.
PYTHON ?= python3
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' requirements.in)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1

.PHONY: setup repro test slow proof check exact chaos zoo lock results deps clean-state
KILLS ?= 100
SECONDS ?= 120
SEEDS ?= 0

setup: .venv/.done

.venv/.done: requirements.txt requirements-test.txt requirements.in pyproject.toml infra/install.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no venv module: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python infra/install.py requirements.txt requirements-test.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup
	@python -m pipeline.ready
	@dvc repro
	@python -m pipeline.results

results: setup
	@python -m pipeline.results

check: setup
	ruff check .
	ruff format --check .
	mypy

# Three tiers: `make test` (at most 20 minutes on two cores, what every push runs), `make slow` (at most 60, weekly), `make proof` (hours).
test: check
	@# Two processes of a thread each: more wait for each other. One that dies ends the run: its work, handed on, has left the other waiting for ever.
	@# Files in the order of tests/conftest.py: those that take minutes first, so that no process is left alone with one.
	OMP_NUM_THREADS=1 pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

slow: setup
	pytest -m slow

proof: slow exact
	@python tests/chaos/chaos.py --kills $(KILLS)

exact: setup
	@python -m pipeline.exact

chaos: setup
	pytest -m chaos
	@python tests/chaos/chaos.py --kills $(KILLS)

zoo: setup
	@dvc repro --quiet reference
	@python benchmarks/zoo.py --seconds $(SECONDS) --seeds $(SEEDS) $(if $(RECIPES),--recipes $(RECIPES)) $(ZOO_OPTIONS)

lock: setup
	@$(BIN)/python infra/install.py requirements.in requirements-test.in
	@$(BIN)/python infra/lock.py

deps: setup
	@python -m pipeline.deps

clean-state:
	rm -rf state
