# The two commands of a fresh machine: `make demo` and `make test`. Both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := qemu-system-arm qemu-aarch64 arm-none-eabi-gcc aarch64-linux-gnu-gcc gcc cmake
PACKAGES := qemu-system-arm qemu-user gcc-arm-none-eabi gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc libc6-dev cmake make python3-venv

.PHONY: help setup tools demo test check slow clean
.DEFAULT_GOAL := help

help:  ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: tools $(VENV)/.ready  ## Cross tools, emulators and the Python environment

tools:  ## Install cross compilers and emulators where apt may; else say what is missing
	@bash .ci/install_tools "$(TOOLS)" "$(PACKAGES)"

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch -c constraints.txt
	$(BIN)/pip install --quiet -e '.[train,lower,report,rpc,dev]' -c constraints.txt
	touch $@

demo: setup  ## Recipe to proved firmware on scikit-learn's digits, for eight devices
	$(BIN)/qkd run benchmarks/recipes/digits.toml --out runs/digits

test: setup check  ## Everything CI runs
	$(BIN)/pytest -n 2 --dist worksteal -q

check: $(VENV)/.ready  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	bash .ci/types

slow: setup  ## The long proofs: every number under benchmarks/results is made by these
	$(BIN)/python -m benchmarks.thread

clean:  ## Remove the environment and build output
	rm -rf $(VENV) build dist *.egg-info
