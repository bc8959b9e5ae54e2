# Every target makes what it needs: `make test` and `make demo` work on a fresh clone, again and again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Without compiled files every process compiles torch again: collecting the tests took 40 s instead of 12.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all fmt lint types layers smoke check clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*?## "} {printf "  %-10s %s\n", $$1, $$2}'

# uv installs in a fraction of pip's time; pip does where uv cannot be had.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"m3tl needs Python 3.11, 3.12 or 3.13; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv || true
	if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -e '.[dev,parallel,slurm]'; else $(BIN)/python -m pip install -e '.[dev,parallel,slurm]'; fi
	touch $(READY)

setup: $(READY)  ## Make .venv with everything in it

demo: $(READY)  ## Set up and run the main job: M3TL on driving scenes, from pretraining to new tasks at a target, then the report
	$(BIN)/m3tl train paradigm=m3tl name=demo

test: $(READY)  ## Set up and pass the quick tests
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-all: $(READY)  ## All tests
	$(BIN)/python -m pytest -n 2

fmt: $(READY)  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)  ## Style and docstrings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)  ## Types, strictly
	$(BIN)/mypy

layers: $(READY)  ## The floors of the house: who may import whom
	$(BIN)/lint-imports

smoke: $(READY)  ## Train two corners of the cube for a moment through the real command
	$(BIN)/m3tl train -m paradigm=stl,m3tl budget=smoke name=smoke

check: lint types layers test-all smoke  ## All that must hold before a commit

clean:  ## Remove the environment and tool caches; never outputs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache build dist
