# Everything a newcomer needs: `make demo` and `make test` set up what they use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
FLOORS := engine export tools bench

.PHONY: setup demo test test-base test-tensorflow check lint types benchmarks clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and alone: a plain 'torch' would bring gigabytes of CUDA packages
	$(BIN)/python $(PIP) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]'
	touch $@

# A published file in, a submission out. The file is a stand-in with seeded weights: its scores mean nothing.
demo: setup
	rm -rf demo && mkdir demo
	$(BIN)/python -m bce.export.standin demo/perch_stand_in.onnx --classes 24
	$(BIN)/bce-tools synth --test-only --test-soundscapes 6 --out demo/soundscapes
	$(BIN)/bce-export --perch demo/perch_stand_in.onnx --head perch --out demo/bundle
	$(BIN)/bce-infer --bundle demo/bundle --out demo/submission.csv demo/soundscapes/test_soundscapes
	@echo "demo/submission.csv:" && head -n 4 demo/submission.csv | cut -c 1-120

test: setup
	$(BIN)/python -m pytest -q

# the light install of the README: no torch, no onnx
test-base: setup
	rm -rf build $(VENV)-base
	$(PYTHON) -m venv $(VENV)-base
	$(VENV)-base/bin/python $(PIP) -c constraints.txt .
	$(BIN)/python -m bce.export.standin build/stand_in.onnx --classes 24 --width 0.3
	$(BIN)/bce-export --perch build/stand_in.onnx --head perch --out build/bundle
	cd build && ../$(VENV)-base/bin/python ../tests/base_install.py bundle

# SavedModels, TFLite files and Keras heads, against TensorFlow and LiteRT, in an environment of their own
test-tensorflow: $(VENV)-tf/.installed
	TF_CPP_MIN_LOG_LEVEL=2 TF_ENABLE_ONEDNN_OPTS=0 $(VENV)-tf/bin/python -m pytest -q tests/tensorflow

$(VENV)-tf/.installed: pyproject.toml constraints.txt constraints-tensorflow.txt
	$(PYTHON) -m venv $(VENV)-tf
	$(VENV)-tf/bin/python $(PIP) "$$(grep '^torch==' constraints.txt)"
	$(VENV)-tf/bin/python $(PIP) -c constraints.txt -c constraints-tensorflow.txt -e '.[export,tflite]' \
		tensorflow-cpu tf2onnx kagglehub jax jaxlib pytest pytest-benchmark hypothesis
	touch $@

check: lint types

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# type checkers do not know pyproject's package-dir: lay the namespace out as links
types: setup
	mkdir -p .typed/bce
	for floor in $(FLOORS); do ln -sfn ../../$$floor .typed/bce/$$floor; done
	$(BIN)/mypy .typed/bce

# on a machine with nothing else to do; results are JSON in build/bench, tables by `bce-bench table`
benchmarks: setup
	mkdir -p build/bench
	$(BIN)/python -m pytest -q bench --benchmark-only --benchmark-json=build/bench/kernels.json
	$(BIN)/bce-bench peers
	$(BIN)/bce-bench budget
	$(BIN)/bce-bench startup
	$(BIN)/bce-bench memory

clean:
	rm -rf build dist demo .typed *.egg-info .mypy_cache .ruff_cache .benchmarks .hypothesis
