# One virtual environment, made by `setup` and reused; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: setup demo test check fix docs bench clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/snugfit/quants/native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): packages and native kernels. This takes a few minutes, once."
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[torch,cluster,dev]"
	touch $@

demo: setup
	$(BIN)/python -m snugfit.demo.tour

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/generate.py --check

fix: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	for script in benchmarks/*.py; do $(BIN)/python $$script; done

clean:
	rm -rf build $(INSTALLED)
