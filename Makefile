# `make train` and `make test` set up all they need in .venv, then run. Both are quick the second time.
#
# On Linux, PyPI's torch brings several gigabytes of CUDA. For the small CPU build:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make train
#
# JAX is that for the machine's NVIDIA GPU or TPU, if it has one. To choose: make train ACCELERATOR=cpu,
# cuda (CUDA 12: drivers from 525 on), cuda13 (drivers from 580 on) or tpu.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ARGS ?=
WORKERS ?= 2

ACCELERATORS := cpu cuda cuda13 tpu
# Google's PCI devices that are TPUs, from v2 to 7x.
TPU := 0x0027 0x0056 0x005e 0x0062 0x0063 0x006f 0x0076
ifndef ACCELERATOR
ACCELERATOR := $(shell \
	if nvidia-smi -L 2>/dev/null | grep -q ^GPU; then echo cuda; exit; fi; \
	for vendor in $$(grep -lsx 0x1ae0 /sys/bus/pci/devices/*/vendor); do \
		case " $(TPU) " in (*" $$(cat $${vendor%vendor}device) "*) echo tpu; exit;; esac; done; \
	echo cpu)
endif
ifeq ($(filter $(ACCELERATOR),$(ACCELERATORS)),)
$(error ACCELERATOR=$(ACCELERATOR) is none of $(ACCELERATORS))
endif

.DEFAULT_GOAL := help
.PHONY: help train test lint types unit fuzz formats tpu-aot format clean

help:
	@echo "make train   train on handwritten digits, load in PyTorch, prove equal  (ARGS='fashion_mnist --help')"
	@echo "             with JAX for $(ACCELERATOR), as found here; ACCELERATOR=cpu, cuda, cuda13 or tpu chooses"
	@echo "make test    lint, types and all tests"
	@echo "make lint, make types, make unit   its parts; each sets up $(VENV) first"
	@echo "make fuzz    damaged tensor files, JSON beside them, and Orbax, up to 24 minutes  (ARGS='--inputs 50000 --seed 1')"
	@echo "make formats measure every format of others and write docs/formats.md"
	@echo "make tpu-aot compile the training step for TPU slices, without a TPU  (ARGS='--models S/16')"
	@echo "make format  rewrite the code in the project's style"
	@echo "make clean   remove .venv and caches; runs/ stays"

train: $(VENV)/$(ACCELERATOR).stamp
	@$(BIN)/python train.py $(ARGS)

test: lint types unit

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: $(VENV)/test.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

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

comma := ,
STAMPS := $(ACCELERATORS:%=$(VENV)/%.stamp)
$(STAMPS): $(VENV)/%.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo "installing the pinned packages, with JAX for $* (once; some minutes)"
	@$(PIP) -e '.[jax,torch,train$(if $(filter-out cpu,$*),$(comma)$*)]'
	@touch $@

# torchvision and timm would ask for other builds of torch; their remaining needs are in the extra `test`.
$(VENV)/test.stamp: $(VENV)/cpu.stamp
	@echo "installing the test tools"
	@$(PIP) -e '.[jax,torch,train,test]'
	@$(PIP) --no-deps torchvision timm
	@touch $@
