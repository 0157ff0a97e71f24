# make demo: the whole pipeline on made-up data.   make test: all checks.
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
BIN := $(VENV)/bin
# Some tools call others of the same environment by name.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test format clean

demo: $(VENV)/installed
	$(BIN)/snakemake --cores $(CORES)

test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check .
	$(BIN)/snakemake --lint
	$(BIN)/pytest -n auto

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt .
	$(BIN)/python -m mist_core.config > workflow/schemas/config.schema.json

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) results numpy data/demo .snakemake
