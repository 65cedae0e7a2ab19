# One command for each purpose; `make help` lists them. Nothing has to be installed by hand on Debian 12.
PYTHON := .venv/bin/python
TESTS  ?= tests

.DEFAULT_GOAL := help
.PHONY: help run test lint unit golden bench workloads setup clean

help: ## Say what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 10

run: ## Set up and run the incident; ARGS='run --profile P -- CMD' runs `ebpfaudit ARGS` instead (root)
	@./setup.sh run
ifdef ARGS
	@.venv/bin/ebpfaudit $(ARGS)
else
	@$(PYTHON) examples/incident/incident.py
endif

test: ## Set up, then lint, types and every test on this kernel (root); TESTS=... selects
	@./setup.sh test
	@$(MAKE) --no-print-directory lint
	$(PYTHON) -m pytest $(TESTS)

lint: ## Style and types (no root)
	@./setup.sh unit
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	@if command -v clang-format >/dev/null; then clang-format --dry-run --Werror probes/*.[ch] examples/*/*.c; \
	else echo 'lint: no clang-format, so the style of probes/ was not checked' >&2; fi

unit: ## The tests that need neither root nor bcc
	@./setup.sh unit
	$(PYTHON) -m pytest -m 'not kernel' $(TESTS)

golden: ## Rewrite the expected verdicts of the profiles' fixtures; review the diff
	@./setup.sh unit
	.venv/bin/ebpfaudit profile test --update

bench: ## Measure: slow-down, throughput, time to kill, start-up, memory, trail size (root)
	@./setup.sh run
	$(PYTHON) -m benchmarks

workloads: ## Do ordinary work under coding-agent and write docs/workloads.md; installs what it needs (root)
	@./setup.sh run
	$(PYTHON) -m tests.workloads --install --write docs/workloads.md

setup: ## Only set up
	@./setup.sh test

clean: ## Remove what was built, the venv included
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
