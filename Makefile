# laid: `make demo` and `make test` need only Python >= 3.11 and make.
#
#   make test VENV=/path/to/env          use another environment; its installed packages, torch too, are kept
#   make setup PYTHON=python3.12         interpreter of a new environment
#   make setup TORCH=torch==2.12.1       another torch
#   make setup TORCH_INDEX=URL           look for torch on this index as well as on pip's own (empty: only pip's own)
#   make test ARGS="-k alignment"        more arguments for pytest

VENV   ?= .venv
PYTHON ?= python3
ARGS   ?=

# Without an NVIDIA driver: the release that the tests ran with, as a CPU build if there is one. On Linux a plain
# torch installs gigabytes of CUDA, so PyTorch's CPU index is added; pip prefers its "+cpu" to a plain build.
CPU_INDEX   := https://download.pytorch.org/whl/cpu
DRIVER      := $(or $(wildcard /dev/nvidia0),$(shell command -v nvidia-smi 2>/dev/null))
TORCH       ?= $(if $(DRIVER),torch,torch==2.13.0)
TORCH_INDEX ?= $(if $(DRIVER),,auto)

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.laid-setup

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup docs demo table table-student tiny-checkpoints test test-slow campaign bench lint clean distclean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Create the environment and install laid (again whenever pyproject.toml changes)

demo: $(STAMP)  ## Train the tiny student on the CPU, test it, its base and its teacher, write a report
	$(BIN)/laid test --config configs/tiny.yaml --results runs/demo-base
	$(BIN)/laid test --config configs/tiny.yaml --results runs/demo-teacher --model.student.path tiny/teacher-independent
	$(BIN)/laid fit --config configs/tiny.yaml --name demo --trainer.max_epochs 1
	$(BIN)/laid test --ckpt_path last --name demo --results runs/demo-distilled
	$(BIN)/laid compare runs/demo-base runs/demo-distilled runs/demo-teacher --base demo-base --teacher demo-teacher \
	  --out runs/demo-report

# laid compare reads the folder of each seed.
TABLE := runs/table
METHODS := base yarn self_extend sft-seed? kd-seed? laid_final-seed? laid_all-seed? retrieval-seed? laid_retrieval-seed? teacher
PARTS := kd-seed[012] retrieval-seed[012] wo_kl-seed? wo_sft-seed? own_places-seed? own_images-seed? wo_needle_rule-seed? labels-seed? retrieval_gain-seed?
SHARED := base yarn shared_kd-seed? shared_laid-seed? shared_retrieval-seed? shared_laid_retrieval-seed? shared_teacher

table: $(STAMP)  ## Train and test all methods on the miniature, five seeds, into docs/results (hours; resumes)
	$(BIN)/python benchmarks/sweep.py benchmarks/table.yaml
	cd $(TABLE) && $(abspath $(BIN))/laid compare $(METHODS) --base kd --teacher teacher --out $(CURDIR)/docs/results
	cd $(TABLE) && $(abspath $(BIN))/laid compare $(PARTS) --base retrieval --out $(CURDIR)/docs/results-parts
	cd $(TABLE) && $(abspath $(BIN))/laid compare $(SHARED) --base shared_kd --teacher shared_teacher --out $(CURDIR)/docs/results-shared

table-student: $(STAMP)  ## The same on the student that never saw long positions, into docs/results-student (hours; resumes)
	$(BIN)/python benchmarks/sweep.py benchmarks/table_student.yaml
	$(BIN)/laid compare runs/table_student/*/results.json --base base --teacher teacher --out docs/results-student

tiny-checkpoints: $(STAMP)  ## Train the packaged tiny models from scratch, into tiny-checkpoints/ (long; resumes)
	$(BIN)/laid pretrain tiny --out tiny-checkpoints

# Files in the order of their folders: by number of tests, those with a few long ones would come last.
test: $(STAMP)  ## Run the tests, except the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(STAMP)  ## Run the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(ARGS)

campaign: $(STAMP)  ## Try to break it: a thousand cases, tried and passed for each kind (20 minutes)
	LAID_CAMPAIGN_WRITES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/campaign -n 2 --dist worksteal -q -m "" $(ARGS)

docs: $(STAMP)  ## Build the documentation as a site, into site/; a broken link is an error
	$(PIP) install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

bench: $(STAMP)  ## Measure speed and memory on the CPU, into runs/bench (hours; resumes; TRL with .[bench])
	$(BIN)/python benchmarks/speed/speed.py $(ARGS)

lint: $(STAMP)  ## Check style and format (ruff), types (mypy) and layers (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## Remove build files and caches; runs/ is kept
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Also remove .venv
	rm -rf .venv

# The stamp is written last, so an interrupted setup is completed by the next one.
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
