# `make test` is the whole check of a newcomer: its own venv, ruff, mypy, pytest.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Two processes share the test files and the kernels that they compile.
WORKERS ?= 2

.PHONY: test install bench docs clean

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train,demo,serve]'
	touch $@

bench: install
	$(BIN)/python -m benchmarks

docs: install
	$(BIN)/python -m tests.lesson

clean:
	rm -rf $(VENV)
