# Each target sets itself up: the stamp makes the environment where it is missing, or older than a
# pyproject.toml. PYTHON and VENV choose another one: `make test PYTHON=python3.13 VENV=.venvs/3.13`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
REV ?= HEAD
EXCEPT ?=
# Each worker takes what others have not begun; what a killed one was at is named, and the rest go on.
PYTEST := $(BIN)/python -m pytest -q
ALL_CORES := -n auto --maxprocesses 8 --dist worksteal
PLUGINS := $(patsubst %/pyproject.toml,-e '%[test]',$(wildcard plugins/*/pyproject.toml))

.PHONY: help setup demo test soak coverage test-all lint format type bench bench-compare wheels check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed ## an environment in .venv with the project and its tools

$(VENV)/.installed: $(PROJECTS)
	@test -e $@ || echo "setting up $(VENV), once: a minute or two" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -e '.[dev]' $(PLUGINS)
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	@$(PIP) install -e '.[bench]'
	@touch $@

demo: setup ## the tour of what the bus does
	@$(BIN)/python -m examples.demo

test: setup ## the tests, as fast as they go
	@$(PYTEST) $(ALL_CORES)

soak: setup ## the fault tests at their full size, which takes hours
	@EVENTBUS_SOAK=1 $(PYTEST) -o timeout=3600 tests/faults

coverage: setup ## the tests, and the lines and branches they leave out
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q $(ALL_CORES)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-all: ## the tests on every CPython >= 3.11 of this machine; EXCEPT=3.11 leaves one out
	@.ci/interpreters | { failed=; while read -r version python; do \
		if test "$$version" = "$(EXCEPT)"; then continue; fi; \
		echo "CPython $$version ($$python)"; \
		$(MAKE) test PYTHON="$$python" VENV=".venvs/$$version" </dev/null || failed+=" $$version"; \
	done; test -z "$$failed" || { echo "The tests failed on CPython$$failed." >&2; exit 1; }; }

lint: setup ## style and formatting, looked at only
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "Run: make format" >&2; exit 1; }

format: setup ## style and formatting, mended where a tool can
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

type: setup ## the types, by mypy and by basedpyright
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/basedpyright --level error

bench: $(VENV)/.bench ## speed, side by side with other libraries; OPTIONS=--quick, --core, --durable, --json FILE, --svg FILE, --readme FILE
	@$(BIN)/python -m tests.benchmarks $(OPTIONS)

bench-compare: setup ## what became slower since REV=HEAD; OPTIONS=--instructions counts them with valgrind
	@$(BIN)/python -m tests.benchmarks.guard $(REV) $(OPTIONS)

wheels: setup ## what a user installs: built, installed elsewhere, the examples run there
	@.ci/wheels $(BIN)/python

check: lint type coverage ## all that a change must pass here

clean: ## away with environments, caches and builds
	@rm -rf .venv .venvs build dist .coverage .coverage.* htmlcov
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
