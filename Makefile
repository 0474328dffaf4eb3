# `make help` lists the targets. Needs Python 3.11 or 3.12, make, and a package index for pip.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check
# One thread per process: servers, clients and tests run side by side on few cores.
export OMP_NUM_THREADS ?= 1

DEMO_EXTRAS := edge,cloud,tasks,demo
ALL_EXTRAS  := edge,cloud,console,postgres,ray,tasks,ultralytics,train,jxl,dev

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo models demo photos test test-fast lint format bench screenshots docs stubs stubs-check clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.all ## Create .venv with everything: all extras but gpu
setup-demo: $(VENV)/.demo ## Create .venv with what the demo needs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "Python 3.11 or 3.12 is needed; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An empty file per set of extras, so that nothing is installed twice.
$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing what the demo needs into $(VENV): 1.8 GB, some minutes."
	$(PIP) install --quiet -c constraints.txt -e '.[$(DEMO_EXTRAS)]'
	@touch $@

$(VENV)/.all: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing everything into $(VENV): some minutes."
	$(PIP) install --quiet -c constraints.txt -e '.[$(ALL_EXTRAS)]'
	@touch $(VENV)/.demo $@

models: setup-demo ## Fetch the weights of the default tasks, checked by hash
	$(BIN)/featherwire-cloud models fetch

demo: setup-demo models ## Photos through a real edge client and a real server: build/demo/
	$(BIN)/python -m benchmarks.demo

photos: setup-demo ## The photos that the commands of the documents name: build/photos/
	$(BIN)/python -m benchmarks.photos build/photos

# PYTEST_ARGS narrows a run: make test PYTEST_ARGS='-m "not slow" -x'
# Files are shared out among so many processes, the long ones first; each may need a gigabyte and a
# half. One more than cores: many tests wait for processes, clocks and networks.
PYTEST_WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder
UNITS  := tests/shared tests/codec tests/edge_client tests/cloud_server

test-fast: setup ## Units and protocol, without servers: two minutes
	$(PYTEST) -m fast $(UNITS) $(PYTEST_ARGS)

# The quick ones first: what they find is said at once.
test: setup models ## All tests, with coverage (must reach 88 %)
	$(PYTEST) -m fast $(UNITS) --cov --cov-report= $(PYTEST_ARGS)
	$(PYTEST) -m "not fast" --durations=15 --cov --cov-append --cov-report=term --cov-fail-under=88 $(PYTEST_ARGS)

lint: setup ## ruff, mypy --strict, import rules, buf, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/hadolint deploy/*.Dockerfile

format: setup ## Let ruff rewrite what `lint` would complain about
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# BENCH_ARGS: other photos, --limit, --cache ..., --accuracy SET, --video [CLIP]: BENCH_ARGS="set.tar --limit 20"
bench: setup models ## Measure: rate, perception, accuracy, times, memory beside the rivals'
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

screenshots: setup models ## Picture the console's pages anew: docs/console/ (needs Chromium)
	FEATHERWIRE_SCREENSHOTS=1 $(BIN)/python -m pytest tests/cloud_server/console/test_pages.py

docs: setup ## The documents as a site, strictly: build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

stubs: setup ## Make the Python stubs from protos/ again
	$(BIN)/python -m shared.proto.generate

stubs-check: setup ## Fail when the committed stubs are not what protos/ gives
	$(BIN)/python -m shared.proto.generate --check

clean: ## Remove what the targets made, .venv included
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
