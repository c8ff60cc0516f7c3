# make demo    train, evaluate and draw on the embedded data set
# make test    lint and the whole test suite
# make report  execute the notebooks on the best checkpoints there are, as web pages: report/index.html
# make test-slow    the tests that take minutes: training killed at 25 random moments
# make test-gpu, make bench-gpu    the tests that need a GPU; tdBN and LIF of every layer and whole training steps, timed on it
# PYTHON, VENV and REQUIREMENTS may be set: make test VENV=/tmp/venv PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= requirements.txt
BIN := $(VENV)/bin

.PHONY: demo test test-slow report test-gpu bench-gpu setup

setup: $(VENV)/.installed

$(VENV)/.installed: $(REQUIREMENTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r $(REQUIREMENTS)
	touch $@

demo: setup
	$(BIN)/python train.py --dataset digits
	$(BIN)/python evaluate.py --checkpoint runs/digits-esvae-paper-seed42

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

report: setup
	$(BIN)/python -m analysis.report

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

bench-gpu: setup
	$(BIN)/python -m benchmarks.lif_kernels --device cuda --json runs/lif_kernels-float32.json
	$(BIN)/python -m benchmarks.lif_kernels --device cuda --dtype bfloat16 --json runs/lif_kernels-bfloat16.json
	$(BIN)/python -m benchmarks.throughput --device cuda --batch-size 256 --compare --json runs/throughput-backends.json
	for model in esvae fsvae; do for precision in fp32 bf16; do for graph in off on; do \
		$(BIN)/python -m benchmarks.throughput --device cuda --model $$model --batch-size 256 --precision $$precision \
			--cuda-graph $$graph --json runs/throughput-$$model-$$precision-graph-$$graph.json || exit; \
	done; done; done
