# Two commands do everything: `make setup` (implied by the others) and `make demo`. `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
export LEPTON_HOME ?= $(CURDIR)/.lepton
# Hundreds of short-lived Pythons are started here: each compiles everything anew where none may keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE
# The Python that .venv is made from: the first of these that is 3.11 or 3.12 (numpy 1.26 for Triton's stub ends there).
PYTHONS := $(PYTHON) python3 python3.12 python3.11
CODE := sdk/lepton chassis services deploy bench
# Tests that need no other program and are over in seconds.
QUICK := -m "not slow and not integration and not exhaustive" --ignore=tests/mesh --ignore=tests/faults
# The order of the files is tests/conftest.py's: what takes longest comes first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# What `make bench` runs: every module of bench that is a program.
BENCHES ?= $(sort $(basename $(notdir $(shell grep -l __main__ bench/*.py 2>/dev/null))))

STATIC := check-format check-lint check-types check-imports check-protos check-generated check-security
.PHONY: help setup gen format check check-unit $(STATIC) test test-all bench demo up down clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: ## make .venv with pinned packages and tools (no root); again only when the pins change
	@for python in $(PYTHONS); do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
	        exec "$$python" -m deploy.environment; \
	    fi; \
	done; \
	echo "setup needs Python 3.11 or 3.12 (with venv); tried: $(PYTHONS). Set PYTHON=/path/to/python3.11" >&2; exit 1

gen: setup ## regenerate what is generated: stubs, retry policy, error reference
	@$(BIN)/python -m deploy.gen
	@$(BIN)/python -m deploy.retry_policy
	@$(BIN)/python -m deploy.error_reference

format: setup ## format the code and the protos
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/buf format protos --write

check: setup ## formatting, lint, types, import rules, protos, generated code, security, unit tests
	@started=$$SECONDS; \
	if $(MAKE) -j2 --output-sync=target --keep-going $(STATIC) check-unit; then \
	    echo "check: all passed in $$((SECONDS - started)) s"; \
	else \
	    echo "check: FAILED; each failure is shown above under its own heading" >&2; exit 1; \
	fi

check-types:
	@echo "== types"; $(BIN)/mypy $(wildcard $(CODE))

check-unit:
	@echo "== unit tests"; $(BIN)/python -m pytest -q $(PARALLEL) $(QUICK)

check-format:
	@echo "== format"; $(BIN)/ruff format --check .

check-lint:
	@echo "== lint"; $(BIN)/ruff check .

check-security:
	@echo "== security"; $(BIN)/bandit -q -ll -c pyproject.toml -r $(CODE); $(BIN)/python -m deploy.dependencies

check-imports:
	@echo "== import rules"; $(BIN)/lint-imports --no-logo

check-protos:
	@echo "== protos"; $(BIN)/buf lint; $(BIN)/buf format protos --diff --exit-code

check-generated:
	@echo "== generated code"; $(BIN)/python -m deploy.gen --check

test: setup ## the whole suite but the slow tests, on real etcd, Envoy and Triton
	@$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: setup ## the suite with the slow tests, and property tests with new examples
	@LEPTON_EXAMPLES=new $(BIN)/python -m pytest $(PARALLEL)

bench: setup ## run the benchmarks, each printing JSON (BENCHES="rpc" picks)
	@for bench in $(BENCHES); do echo "== $$bench" >&2; $(BIN)/python -m "bench.$$bench"; done

demo: setup ## start the one-machine stack, train on 2 nodes, deploy 2 replicas, predict, show the trace
	@exec $(BIN)/python -m deploy.demo

up: setup ## start the one-machine stack and wait until it is healthy
	@exec $(BIN)/lepton up

down: setup ## stop exactly the processes that `make up` or `make demo` started
	@exec $(BIN)/lepton down

clean: ## stop the stack, delete its state and every cache (.venv stays)
	@if [ -x $(BIN)/lepton ] && [ -d "$(LEPTON_HOME)" ]; then $(BIN)/lepton down; fi
	@rm -rf .lepton .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache .hypothesis build dist
	@find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
