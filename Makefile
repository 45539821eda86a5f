# Everything from a fresh clone: `make demo` and `make test` first make the environment in .venv.
.DEFAULT_GOAL := help
OUT ?= demo
JOBS ?= 2
# Byte-compiled packages make every start of the command line three times faster.
export UV_COMPILE_BYTECODE = 1
UV := $(if $(shell command -v uv 2>/dev/null),uv,.bootstrap/bin/uv)
BIN := .venv/bin

.PHONY: help env demo test test-slurm lint lock clean

help:
	@echo "make demo   simulate a cohort, analyse it, print planted beside found (OUT=$(OUT))"
	@echo "make test   ruff, mypy and all tests"
	@echo "make test-slurm   the workflow through a real Slurm"
	@echo "make lint   ruff and mypy only"
	@echo "make env    the environment alone (.venv)"
	@echo "make lock   resolve the versions in uv.lock again"
	@echo "make clean  remove the environment and the demo"

.bootstrap/bin/uv:
	python3 -m venv .bootstrap
	.bootstrap/bin/python -m pip install --quiet uv

.venv/.stamp: pyproject.toml uv.lock .python-version | $(filter .bootstrap/bin/uv,$(UV))
	$(UV) sync --frozen --no-progress
	@touch $@

env: .venv/.stamp

demo: env
	$(BIN)/crs-sc demo -o $(OUT)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n $(JOBS) --dist loadfile

lock: | $(filter .bootstrap/bin/uv,$(UV))
	$(UV) lock

# Not part of `test`: needs a Slurm, or SLURM_START=script that starts one.
test-slurm: env
	$(BIN)/pytest -m slurm tests/test_slurm.py

clean:
	rm -rf .venv .bootstrap $(OUT)
