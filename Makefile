# Two commands for a fresh machine: `make demo` and `make test`. Both create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests need no GPU; where there is none, this keeps the machine's cores for the code under test.
WORKERS ?= 2

# setuptools warns at length about every editable install.
PIP_INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/avcompress demo --out demo_out

test: check
	$(BIN)/python -m pytest -n $(WORKERS) -m "not gpu and not ros"

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The CPU build of torch is enough. PyPI serves the one for CUDA: PIP_EXTRA_INDEX_URL names another index (see README).
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable ".[train,rtx]"
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo_out build dist *.egg-info
