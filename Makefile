# Everything a newcomer needs: `make demo` and `make test` set up what they use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check lint types setup benchmarks clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and alone: a plain 'torch' would bring gigabytes of CUDA packages
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m bce.bench.demo demo

test: setup
	$(BIN)/python -m pytest -q

check: lint types

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# type checkers do not know pyproject's package-dir: lay the namespace out as links
types: setup
	mkdir -p .typed/bce
	for floor in engine export tools bench; do ln -sfn ../../$$floor .typed/bce/$$floor; done
	$(BIN)/mypy .typed/bce

benchmarks: setup
	$(BIN)/python -m pytest -q bench --benchmark-only --benchmark-json=benchmarks.json

clean:
	rm -rf build dist demo .typed *.egg-info .mypy_cache .ruff_cache .benchmarks .hypothesis
