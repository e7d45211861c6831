# laid: `make demo` and `make test` need nothing before them but Python >= 3.11 and make.
#
#   make test VENV=/path/to/env          use another environment; what it has already, torch too, is kept
#   make setup PYTHON=python3.12         the interpreter a new environment is made with
#   make setup TORCH=torch==2.12.1       another torch
#   make setup TORCH_INDEX=URL           take torch from this index as well as pip's own (empty: from pip's own only)
#   make test ARGS="-k alignment"        more arguments for pytest

VENV   ?= .venv
PYTHON ?= python3
ARGS   ?=

# Without an NVIDIA driver: the release the tests ran with, as a CPU build where one can be had. On Linux a plain
# torch brings gigabytes of CUDA, so PyTorch's CPU index is asked as well; pip prefers its "+cpu" to a plain build.
CPU_INDEX   := https://download.pytorch.org/whl/cpu
DRIVER      := $(or $(wildcard /dev/nvidia0),$(shell command -v nvidia-smi 2>/dev/null))
TORCH       ?= $(if $(DRIVER),torch,torch==2.13.0)
TORCH_INDEX ?= $(if $(DRIVER),,auto)

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.laid-setup

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo table tiny-checkpoints test test-slow lint clean distclean

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make the environment and install laid in it (once, and again when pyproject.toml changes)

demo: $(STAMP)  ## Distil the miniature's teacher into its student on the CPU, test all three, compare
	$(BIN)/laid test --config configs/tiny.yaml --results runs/demo-base
	$(BIN)/laid test --config configs/tiny.yaml --results runs/demo-teacher --model.student.path tiny/teacher
	$(BIN)/laid fit --config configs/tiny.yaml --name demo
	$(BIN)/laid test --ckpt_path last --name demo --results runs/demo-laid
	$(BIN)/laid compare runs/demo-base runs/demo-laid runs/demo-teacher --base demo-base --teacher demo-teacher \
	  --out runs/demo-report

table: $(STAMP)  ## All methods on the miniature, five seeds, into docs/results (long; goes on where it was)
	$(BIN)/python benchmarks/sweep.py benchmarks/table.yaml
	$(BIN)/laid compare runs/table/*/results.json --base base --teacher teacher --out docs/results

tiny-checkpoints: $(STAMP)  ## Train the miniature's models from nothing, into tiny-checkpoints/ (long)
	$(BIN)/laid pretrain tiny --out tiny-checkpoints

test: $(STAMP)  ## Run the tests, less the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(STAMP)  ## Run the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(ARGS)

lint: $(STAMP)  ## Check the style (ruff) and the types (mypy)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## Remove build leftovers and caches; runs/ is yours and stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv as well
	rm -rf .venv

# The stamp comes last: a setup that was cut short leaves none, and the next one takes up where it stopped.
$(STAMP): pyproject.toml
	@python="$(PYTHON)"; [ ! -x $(BIN)/python ] || python=$(BIN)/python; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "laid needs Python 3.11 or later; $$python is $$("$$python" --version 2>&1)." \
	       "Name another with PYTHON=python3.12 (and remove $(VENV) if it was made with the old one)." >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { set -x; $(PYTHON) -m venv $(VENV); }
	@if $(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit(not m.files("torch"))' 2>/dev/null; then \
	  echo "torch is installed already and stays as it is"; \
	else \
	  index="$(TORCH_INDEX)"; \
	  if [ "$$index" = auto ]; then \
	    index=; \
	    if [ "$$(uname -s)" != Linux ]; then :; \
	    elif $(BIN)/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' $(CPU_INDEX)/torch/ 2>/dev/null; \
	    then index=$(CPU_INDEX); \
	    else echo "$(CPU_INDEX) can't be reached: taking torch from where pip is set up to look"; fi; \
	  fi; \
	  set -x; $(PIP) install "$(TORCH)" $${index:+--extra-index-url "$$index"}; \
	fi
	$(PIP) install --editable '.[dev]'
	@touch $@
