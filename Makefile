# `make train` and `make test` set up all they need in .venv, then run. Both are quick the second time.
#
# On Linux, PyPI's torch brings several gigabytes of CUDA. For the small CPU build:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make train

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ARGS ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help train test lint types unit fuzz formats tpu-aot format clean

help:
	@echo "make train   train on handwritten digits, load in PyTorch, prove equal  (ARGS='fashion_mnist --help')"
	@echo "make test    lint, types and all tests"
	@echo "make lint, make types, make unit   its parts; each sets up $(VENV) first"
	@echo "make fuzz    damaged tensor files, JSON beside them, and Orbax, up to 24 minutes  (ARGS='--inputs 50000 --seed 1')"
	@echo "make formats measure every format of others and write docs/formats.md"
	@echo "make tpu-aot compile the training step for TPU slices, without a TPU  (ARGS='--models S/16')"
	@echo "make format  rewrite the code in the project's style"
	@echo "make clean   remove .venv and caches; runs/ stays"

train: $(VENV)/train.stamp
	@$(BIN)/python train.py $(ARGS)

test: lint types unit

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

fuzz: $(VENV)/test.stamp
	$(BIN)/python -m tests.fuzz_containers $(ARGS)
	$(BIN)/python -m tests.fuzz_json $(ARGS)
	$(BIN)/python -m tests.fuzz_orbax $(ARGS)

formats: $(VENV)/test.stamp
	$(BIN)/python -m tests.formats_matrix

tpu-aot: $(VENV)/tpu.stamp
	$(BIN)/python -m benchmarks.tpu_aot $(ARGS)

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/venv.stamp:
	@python=; for candidate in python3.11 python3.12 python3.13 python3; do \
		if command -v $$candidate >/dev/null && $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then echo "vitwin needs Python 3.11 or newer on the PATH; found $$(python3 --version 2>&1)"; exit 1; fi; \
	echo "setting up $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)
	@touch $@

$(VENV)/train.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo "installing the pinned packages (once; some minutes)"
	@$(PIP) -e '.[jax,torch,train]'
	@touch $@

# torchvision and timm would ask for other builds of torch; their remaining needs are in the extra `test`.
$(VENV)/test.stamp: $(VENV)/train.stamp
	@echo "installing the test tools"
	@$(PIP) -e '.[jax,torch,train,test]'
	@$(PIP) --no-deps torchvision timm
	@touch $@

$(VENV)/tpu.stamp: $(VENV)/train.stamp
	@echo "installing libtpu (600 MB)"
	@$(PIP) -e '.[jax,torch,train,tpu]'
	@touch $@
