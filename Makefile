# Two commands: `make demo` shows it working, `make test` proves it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test check docs slow clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,postgres,parquet,zstd,remote,metrics,serve,finetune]'
	touch $(STAMP)

demo: install
	$(BIN)/endmark run examples/prompts.csv -o results.csv

test: install
	$(BIN)/python -m pytest -m "not gpu and not slow"

slow: install
	$(BIN)/python -m pytest -m "slow and not gpu"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv results.csv
