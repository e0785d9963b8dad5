# The only task runner. SCALE, DATASET and CH choose what is run: make reproduce SCALE=smoke DATASET=cifar10 CH="01 02"

PYTHON ?= python3
SCALE ?= laptop
DATASET ?= shapes
CH ?=
ARGS ?=
CELL_TIMEOUT ?= 1200
JOBS ?= 2

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env reproduce book course test quick notebooks figures gpu check clean

# These chapters take two to thirteen minutes of one core each: a test runs them at smoke scale.
LONG := 02 03 04 05 06 A2 A3 A4
# Those of them that no test in tests/test_notebooks.py runs.
SMOKE := 02 03 A3 A4
VALIDATED := $(filter-out $(LONG:%=notebooks/%_%),$(wildcard notebooks/*.ipynb))
PY := .venv/bin/python
STAMP := .venv/.stamp
BUILD := $(or $(ADVLIB_BUILD),_build)
RUN := $(BUILD)/$(SCALE)/$(DATASET)
SOURCES := $(sort $(if $(CH),$(foreach c,$(CH),$(wildcard notebooks/$(c)_*.py)),$(wildcard notebooks/*.py)))
START := $(shell date +%s)
WALL = echo "make $@: $$(( $$(date +%s) - $(START) )) s"

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  with SCALE=$(SCALE) (smoke laptop paper) DATASET=$(DATASET) (shapes cifar10 cifar100 imagenet) CH=$(or $(CH),all)"

env: $(STAMP) ## create .venv with everything that is needed

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[test,book,course,imagenet]'
	@touch $@

reproduce: $(STAMP) ## run the chapters, JOBS at a time, write tables, figures and notebooks to _build, and the book over them
	@$(PY) -m advlib run $(CH) --scale $(SCALE) --dataset $(DATASET) --at-once $(JOBS)
	@echo "open $$($(PY) -m advlib book --run $(SCALE)/$(DATASET))"
	@$(WALL)

book: $(STAMP) ## build the site from the committed notebooks, a minute, no network
	@echo "open $$($(PY) -m advlib book)"
	@$(WALL)

course: $(STAMP) ## write exercises, project and exam, a course directory of nbgrader's, and train the project's hidden network
	@echo "student versions: $$($(PY) -m advlib course)"
	@$(WALL)

# Processes share the cores: two that each take all of them are slower than one.
test: export OMP_NUM_THREADS = $(shell $(PYTHON) -c 'import os; print(max(1, os.cpu_count() // $(JOBS)))')
test: $(STAMP) ## pytest with coverage, then the short committed notebooks with nbval and the long chapters at smoke scale, JOBS at a time
	$(PY) -m pytest -n $(JOBS) --dist worksteal --durations 15 --cov advlib --cov-branch --cov-report term:skip-covered
	@if compgen -G 'notebooks/*.ipynb' > /dev/null; then set -x; \
	  $(PY) -m pytest -n $(JOBS) --dist loadfile \
	    --nbval-lax --nbval-current-env --nbval-cell-timeout=$(CELL_TIMEOUT) $(VALIDATED); \
	  printf '%s\n' $(SMOKE) | xargs -P $(JOBS) -I{} $(PY) -m advlib run {} --scale smoke --fresh; \
	else echo "notebooks/ holds no executed notebook: nothing for nbval to validate"; fi
	@$(WALL)

quick: export OMP_NUM_THREADS = $(shell $(PYTHON) -c 'import os; print(max(1, os.cpu_count() // $(JOBS)))')
quick: $(STAMP) ## the quick tests, of every module, in less than a minute
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not slow" -q
	@$(WALL)

notebooks: $(STAMP) ## execute the chapters afresh at laptop scale on shapes and keep the notebooks in notebooks/
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[bench]'  # chapter A3 compares with it
	@$(PY) -m advlib run $(CH) --scale laptop --dataset shapes --fresh
	@for source in $(SOURCES); do cp "$(BUILD)/laptop/shapes/$$(basename "$$source" .py).ipynb" notebooks/; done
	@$(WALL)

figures: $(STAMP) ## keep a finished run's figures in figures/<chapter>/, its tables and outcomes in data/results/<scale>/<dataset>/, what it took in notebooks/seconds.csv
	@test -d $(RUN)/tables || { echo "$(RUN)/tables is missing: make reproduce SCALE=$(SCALE) DATASET=$(DATASET)"; exit 1; }
	@! compgen -G '$(RUN)/*.partial.ipynb' || { echo "not finished: resume with make reproduce SCALE=$(SCALE) DATASET=$(DATASET)"; exit 1; }
	@test $(SCALE) != smoke || { echo "a smoke run is a test, its numbers are not kept"; exit 1; }
	@twice=$$(find $(RUN)/tables -name '*.csv' ! -name '*.old*.csv' -exec basename {} \; | sort | uniq -d); \
	  test -z "$$twice" || { echo "two chapters have a table of one name: $$twice"; exit 1; }
	@mkdir -p data/results/$(SCALE)/$(DATASET)
	@find $(RUN)/tables -name '*.csv' ! -name '*.old*.csv' | while read -r table; do \
	  kept=data/results/$(SCALE)/$(DATASET)/$$(basename "$$table" .csv); outcomes="$${table%.csv}.outcomes.npz"; \
	  rm -f "$$kept.outcomes.npz"; cp -v "$$table" "$$kept.csv"; \
	  if [ -f "$$outcomes" ]; then cp -v "$$outcomes" "$$kept.outcomes.npz"; fi; done
	@for chapter in $(RUN)/figures/*/; do [ -d "$$chapter" ] || continue; \
	  mkdir -p "figures/$$(basename "$$chapter")"; cp -v "$$chapter"*.svg "figures/$$(basename "$$chapter")/"; done
	@$(PY) -m advlib seconds --run $(SCALE)/$(DATASET)
	@$(PY) -m advlib glance

# A machine that lends its GPU may have no package registry: any Python with torch, torchvision, timm, pandas, matplotlib,
# tqdm and scipy will do.
gpu: ## measure what a GPU has to tell, in at most 8 minutes; ARGS=--tiny rehearses it without one
	@PYTHONPATH=. $(or $(wildcard $(PY)),$(PYTHON)) -m advlib.bench.gpu $(ARGS)
	@$(WALL)

check: $(STAMP) ## ruff, codespell and mypy
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	.venv/bin/codespell
	$(PY) -m mypy

clean: ## remove _build and caches; .venv and data/cache stay
	rm -rf _build build .coverage .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
