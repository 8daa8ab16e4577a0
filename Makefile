# ManifoldGD: `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= dataset=digits
TABLE ?= fashion_mnist
TABLE_ARGS ?=
BENCH ?=
# A process a core; eight hold about as many GB. Each begins with a part of its own: what files share is made once.
TEST_PROCESSES ?= -n auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo reproduce-table test test-all lint format lock bench docs

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(BIN)/.installed  ## create .venv with the exact versions of constraints.txt

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## the main job on the embedded digits: distil, train students, write report.html (installs if needed)
	$(BIN)/manifoldgd run $(DEMO)

reproduce-table: install  ## measure TABLE=fashion_mnist (or another of experiments/) cell by cell; continues after a kill
	$(BIN)/manifoldgd table table=$(TABLE) $(TABLE_ARGS)

test: install  ## the quick tests: minutes on two cores
	$(BIN)/python -m pytest $(TEST_PROCESSES)

test-all: install  ## all tests, whole trainings and sweeps included
	$(BIN)/python -m pytest $(TEST_PROCESSES) -m ''

lint: install  ## ruff and mypy: style, imports, docstrings, annotations, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## requirements.lock: constraints.txt with the hashes of every file, for all systems (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --extra docs --constraint constraints.txt \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

docs: $(BIN)/.installed-docs  ## the documentation as a site, into site/: guides, method, every key, results, API
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build  # not --quiet, under which warnings do not count

$(BIN)/.installed-docs: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

bench: install  ## measure this machine: speed as ratios within one run, written to outputs/benchmarks (BENCH="device=cuda")
	$(BIN)/manifoldgd bench $(BENCH)
