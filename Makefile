PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := benchmarks/.venv
# A process for each core, and one thread in each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --durations=10
CHECK_VERSION := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench docs family clean clean-all
.NOTPARALLEL: # two installations into one environment would collide

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(VENV)/.installed ## install, train on handwritten digits for two minutes, sample
	@out=runs/demo; n=1; \
	while [ -e "$$out" ]; do n=$$((n + 1)); out="runs/demo-$$n"; done; \
	$(BIN)/fromnoise train digits minutes=2 --out "$$out" && \
	$(BIN)/fromnoise sample "$$out" --num 64 && \
	echo "Previews, checkpoints and samples: $(CURDIR)/$$out"

test: $(VENV)/.installed-dev ## run the tests that are quick
	$(PYTEST) -m "not slow and not docs"

test-slow: $(VENV)/.installed-dev ## run the tests that train, compile or measure for long
	$(PYTEST) -m slow

check: $(VENV)/.installed-dev ## lint, formatting, types, the pages of docs/ beside the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -m docs tests/test_*.py

bench: $(VENV)/.installed-dev $(PEERS)/.installed ## measure speed and quality, beside other libraries
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.installed-dev ## write docs/components.md from the code, and build the site in build/site
	$(BIN)/python docs/components.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site
	@echo $(CURDIR)/build/site/index.html

family: $(VENV)/.installed ## draw the pictures of docs/family.md
	$(BIN)/python docs/family/draw.py

clean: ## remove caches and build products; runs and the environment stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . \( -path ./$(VENV) -o -path ./$(PEERS) \) -prune -o -type d -name __pycache__ -exec rm -rf {} +

clean-all: clean ## also remove the environments
	rm -rf $(VENV) $(PEERS)

# Stamps: installation is repeated only when pyproject.toml or requirements.txt changes.
$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@ $(VENV)/.installed

# The libraries that are raced have an environment of their own, as their users have.
$(PEERS)/.installed: benchmarks/requirements.txt | $(BIN)/pip
	$(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --requirement benchmarks/requirements.txt
	@touch $@

$(BIN)/pip: # pip and not python: a venv that could not be completed has python only
	@$(PYTHON) -c '$(CHECK_VERSION)' 2>/dev/null || { \
		echo "fromnoise needs Python 3.11 or newer, not $(PYTHON) ($$($(PYTHON) -V 2>&1))." \
			"Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
