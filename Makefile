# make up     train, compress, register, serve and load-test on this machine
# make test   lint, types and tests
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GPU_STAMP := $(VENV)/.gpu
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTHON_IS_USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# What `make up` is told: PORT=8001  FRESH=1  MODEL=fashion_mnist  DATA_DIR=path
PORT ?= 8000
FRESH ?=
MODEL ?= digits
DATA_DIR ?=

.DEFAULT_GOAL := help
.PHONY: help venv gpu up test test-long bench demo lint format clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

venv: $(STAMP)  ## Make the virtual environment (again only when pyproject.toml or constraints.txt change)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(PYTHON_IS_USABLE)' 2>/dev/null; then \
		for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
			if $$candidate -c '$(PYTHON_IS_USABLE)' 2>/dev/null; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No usable Python among: $(or $(PYTHON),python3.13 python3.12 python3.11 python3)." >&2; \
			echo "Tandem needs Python 3.11 or newer with venv and pip (on Debian: apt install python3-venv)." >&2; \
			echo "Point to one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$found"; \
		$$found -m venv --clear $(VENV); \
	fi
	@echo "Installing the pinned packages into $(VENV) (some minutes and 2-6 GB the first time)"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@if [ -e $(GPU_STAMP) ]; then $(MAKE) --no-print-directory swap-onnxruntime; fi
	@touch $@

gpu: venv  ## Add the GPU backends (CUDA build of ONNX Runtime, Torch-TensorRT) to the environment
	$(PIP) install -c constraints.txt -e '.[dev,gpu]'
	@$(MAKE) --no-print-directory swap-onnxruntime
	@touch $(GPU_STAMP)

# Both packages own the folder onnxruntime/: drop both, then lay the GPU build alone.
.PHONY: swap-onnxruntime
swap-onnxruntime:
	$(PIP) uninstall -y onnxruntime onnxruntime-gpu
	$(PIP) install -c constraints.txt --no-deps onnxruntime-gpu

up: venv  ## Train, compress, register, serve; Ctrl-C stops it all (PORT= FRESH=1 MODEL= DATA_DIR=)
	@exec $(BIN)/python -m apps.up --port $(PORT) --model $(MODEL) $(if $(filter-out 0,$(FRESH)),--fresh) $(if $(DATA_DIR),--data-dir '$(DATA_DIR)')

test: lint  ## Lint, types, the quick tests, the slow ones, then those on one live cluster
	$(BIN)/python -m pytest -m "not slow and not cluster and not long"
	$(BIN)/python -m pytest -m "slow and not cluster and not long"
	$(BIN)/python -m pytest -m "cluster and not long"

# pytest's status 5 says that no test is marked so.
test-long: venv  ## The tests that take minutes each
	$(BIN)/python -m pytest -m long || [ $$? -eq 5 ]

bench: venv  ## Compare with other model servers on this machine (some 20 minutes; needs wrk)
	$(BIN)/python -m loadtests.peers

demo: venv  ## Three minutes that show what it is for: overload, no student, a killed teacher (PORT=)
	@exec $(BIN)/python -m apps.demo --port $(PORT)

lint: venv  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: venv  ## Sort imports and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and the caches (the registry and logs in .tandem stay)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find apps training optimization loadtests tests -name __pycache__ -type d -prune -exec rm -rf {} +
