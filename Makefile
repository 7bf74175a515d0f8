# make demo | test | test-all | test-browser: each creates .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all test-browser lint docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('leaven needs Python 3.11 or newer, found ' + sys.version) if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.all: $(VENV)/.dev
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,hf,peers,browser]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m leaven.quickstart.demo

test: $(VENV)/.dev
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-browser: $(VENV)/.dev
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,browser]'
	$(BIN)/python -m pytest -m browser

test-all: $(VENV)/.all
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not gpu'

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	$(BIN)/python -m leaven.core.schema_page > docs/artifacts.md

clean:
	rm -rf $(VENV) build dist src/*.egg-info
