# Every target makes .venv and installs what it needs; a second call reuses it. `make` alone lists the targets.

PYTHON ?= python3.11 python3
DEVICE ?= cpu
JOBS ?= 2
INSTALLER ?= uv
SEEDS ?= 0

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install demo test lint format reference quality docs lock clean

# Nothing phones home, unless you say so.
export DO_NOT_TRACK ?= true
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export MLFLOW_DISABLE_TELEMETRY ?= true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Every stage is a process, and starts in 4 seconds from compiled bytecode, in 10 without. Some machines switch it off.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
# The locks name every package and the digests of its files. Bytecode is compiled as it is imported: compiling all of it
# doubles the install's time. uv does not read pip's variable for folders of packages.
ifeq ($(INSTALLER),uv)
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(addprefix --find-links ,$(PIP_FIND_LINKS))
UNINSTALL := $(BIN)/uv pip uninstall --quiet --python $(BIN)/python
else ifeq ($(INSTALLER),pip)
INSTALL := $(BIN)/pip install -qq --no-deps --no-compile
UNINSTALL := $(BIN)/pip uninstall -qq -y
else
$(error INSTALLER=$(INSTALLER): uv or pip)
endif

help:
	@echo 'Dayline: a recommender retrained every day.'
	@echo
	@echo '  make demo      generate a shop log, retrain three days in a row, print what came of it (about 2 minutes)'
	@echo '  make test      all tests; COVERAGE=1 measures the branches too, HTML=1 shows them in htmlcov/, JOBS=n runs n at once'
	@echo '  make lint      ruff, pyright, import-linter'
	@echo '  make format    let ruff format and mend what it can'
	@echo '  make reference write the tables of keys and kinds in docs/ again, from the code'
	@echo '  make quality   train every shipped config that has a published figure, and print ours beside it; minutes to an'
	@echo '                 hour for each, on one core, with research data in ../shared/data; SEEDS="0 1 2" trains each thrice'
	@echo '  make docs      the same, and build the documentation into site/'
	@echo '  make install   only .venv, with what running needs'
	@echo '  make lock      pin every package again in requirements/; UPGRADE=1 takes newer ones where pyproject.toml allows'
	@echo '  make clean     remove what these targets made, .venv too'
	@echo
	@echo 'DEVICE=gpu      install for NVIDIA GPUs (Linux on x86-64); the default, cpu, runs everywhere on Linux'
	@echo 'INSTALLER=pip   install with pip, which takes minutes where uv, the default, takes seconds'
	@echo 'PYTHON=...      the Python 3.11 to use; the default is python3.11, then python3'

demo: .venv/.installed
	$(BIN)/dayline demo

install: .venv/.installed

# Tracing every line takes half as long again as the tests, and is asked for where a change is judged: by .ci/run.
test: MEASURED := $(if $(COVERAGE)$(HTML),--cov --cov-report=term --cov-fail-under=90 $(if $(HTML),--cov-report=html))
test: .venv/.installed-dev
	@rm -f .coverage .coverage.*
	@# Tests that run beside each other share the cores: threads of one that spin while they wait would slow the others.
	@# Nor is it measured, and traced for nothing, what others' modules do when they are imported.
	$(if $(MEASURED),PYTHONPATH=$(CURDIR)/.ci/measuring$(addprefix :,$(PYTHONPATH))) \
	    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(MEASURED)
	@$(if $(MEASURED),$(BIN)/python .ci/branch_coverage.py 90 recsys_core tasks flows)

lint: .venv/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

reference: .venv/.installed
	$(BIN)/python docs/reference.py

quality: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/quality.py --all --seeds $(SEEDS) --json quality.json

# What its theme announces and what libraries deprecate are no faults of these pages.
docs: export NO_MKDOCS_2_WARNING := true
docs: export PYTHONWARNINGS := ignore::DeprecationWarning
docs: .venv/.installed-dev reference
	$(BIN)/mkdocs build --strict
	@echo 'open site/index.html'

clean:
	rm -rf .venv site htmlcov .coverage .coverage.* *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/pyvenv.cfg:
	@for python in $(PYTHON); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null; then \
	        exec $$python -m venv .venv; \
	    fi; \
	done; \
	echo 'Dayline needs Python 3.11, and none of these is one: $(PYTHON).' >&2; \
	echo 'Install it, or say where it is: make PYTHON=/path/to/python3.11 ...' >&2; \
	exit 1

.venv/.uv: requirements/uv.txt | .venv/pyvenv.cfg
	@$(BIN)/pip install -qq --no-deps --no-compile -r $<
	@touch $@

.venv/.locked-$(DEVICE): requirements/$(DEVICE).txt $(if $(filter uv,$(INSTALLER)),.venv/.uv) | .venv/pyvenv.cfg
	@if [ '$(DEVICE)-'"$$(uname -m)" = gpu-aarch64 ]; then \
	    echo 'DEVICE=gpu: fbgemm-gpu has no wheel for ARM64; use DEVICE=cpu, whose packages all have one.' >&2; \
	    exit 1; \
	fi
	@# Another device's packages fill the same folders.
	@if compgen -G '.venv/.locked-*' > /dev/null; then \
	    $(UNINSTALL) torch fbgemm-gpu fbgemm-gpu-cpu; \
	    rm .venv/.locked-*; \
	fi
	@echo "Installing $$(grep -c == $<) packages into .venv with $(INSTALLER)."
	@$(INSTALL) -r $<
	@# Where the index has only torch's CUDA build, torch does not load without the libraries it was built with.
	@if ! grep -q '^nvidia' $< && grep -q '^Requires-Dist: nvidia' .venv/lib/python3.11/site-packages/torch-*.dist-info/METADATA; then \
	    echo 'This is the CUDA build of torch: its libraries (about 3 GB) must come along.'; \
	    $(INSTALL) -r <(awk '/^[a-z]/ {wanted = /^(cuda|nvidia|triton)/} wanted' requirements/gpu.txt); \
	fi
	@touch $@

.venv/.installed: pyproject.toml .venv/.locked-$(DEVICE)
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

.venv/.installed-dev: requirements/dev.txt .venv/.installed
	@echo "Installing $$(grep -c == $<) tools into .venv."
	@$(INSTALL) -r $<
	@touch $@

# The CPU's lock is the GPU's without CUDA. torchrec's metadata asks for fbgemm-gpu: fbgemm-gpu-cpu stands in for it,
# which pip cannot know; hence complete locks and --no-deps. 3.11.0: early 3.11 needs a package more.
COMPILE := $(BIN)/uv pip compile --quiet --no-header --no-annotate --python-version 3.11.0
PIN := $(COMPILE) --python-platform x86_64-manylinux_2_28 $(if $(UPGRADE),--upgrade)
DIGESTS := $(COMPILE) --no-deps --generate-hashes
# torch's CPU build for x86-64, which PyTorch's own index has under the same version, is as good as the one of PyPI.
TORCH_CPU := sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
lock: PINS := requirements/.pins
lock: .venv/.installed-dev
	@rm -rf $(PINS) && mkdir $(PINS)
	@for lock in gpu cpu dev uv; do sed -nE 's/^([^ ]+==[^ ]+).*/\1/p' requirements/$$lock.txt > $(PINS)/$$lock.txt; done
	$(PIN) pyproject.toml --extra gpu --output-file $(PINS)/gpu.txt > /dev/null
	$(PIN) pyproject.toml --extra cpu --constraints $(PINS)/gpu.txt | grep -vE '^(cuda|nvidia|triton|fbgemm-gpu=)' > $(PINS)/all.txt
	mv $(PINS)/all.txt $(PINS)/cpu.txt
	$(PIN) --group dev --constraints $(PINS)/cpu.txt --output-file $(PINS)/dev.txt > /dev/null
	grep '^uv==' $(PINS)/dev.txt > $(PINS)/uv.txt
	grep -vxFf $(PINS)/cpu.txt $(PINS)/dev.txt > $(PINS)/all.txt
	mv $(PINS)/all.txt $(PINS)/dev.txt
	for lock in gpu cpu dev uv; do \
	    $(DIGESTS) $(PINS)/$$lock.txt | sed 's/^torch==.*/&\n    --hash=$(TORCH_CPU) \\/' > $(PINS)/$$lock.hashed; \
	done
	for lock in gpu cpu dev uv; do mv $(PINS)/$$lock.hashed requirements/$$lock.txt; done
	@rm -rf $(PINS)
