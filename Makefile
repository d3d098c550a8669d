# Everything runs inside .venv, which any target creates on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small tensors gain nothing from many threads per test worker.
TEST_WORKERS ?= 2
# For example: make demo DEMO_OPTIONS=--quick
DEMO_OPTIONS ?=
# For example: make vision VISION_OPTIONS=training.epochs=2
VISION_OPTIONS ?=
CODE := hylora hylora_cli kernels eval vision_extras benchmarks studies docs tests

.PHONY: demo vision study test test-all quality style bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch goes first: a bare requirement would bring several gigabytes of CUDA to a machine that has none.
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/hylora demo --output outputs/demo $(DEMO_OPTIONS)

vision: $(VENV)/installed
	OMP_NUM_THREADS=1 PATH=$(abspath $(BIN)):$$PATH bash studies/vision/demo.sh outputs/vision $(VISION_OPTIONS)

study: $(VENV)/installed
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python studies/language/run.py
	$(BIN)/python studies/language/page.py

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile

test-all: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile -m "not gpu"

quality: $(VENV)/installed
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

style: $(VENV)/installed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/installed
	$(BIN)/python benchmarks/attention.py --output outputs/bench

clean:
	rm -rf $(VENV) outputs build dist *.egg-info
