# Verbs of the house; `make help` lists them. Everything is installed into .venv, nothing else is asked of
# the machine but Python 3.11+, make and git (and etcd, which Debian's apt is asked for when it is missing).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard proto/lite_llm/proto/v1/*.proto)
SOURCES := proto operator orchestrator agent cli tests benchmarks
MODEL ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup servers control-plane lock proto fmt check test e2e up demo bench bench-gpu clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make .venv with every program and what tests compare with

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "installing into $(VENV): a few minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

servers: ## Install the servers that tests run against and the machine lacks
	@tests/servers/etcd.sh

control-plane: ## Build Kubernetes' control plane for tests, once per machine
	@bash proto/lite_llm/testing/control_plane_build.sh >/dev/null

lock: setup ## Choose the versions in constraints.txt anew
	tests/lock.sh

proto: setup ## Generate the stubs from proto/
	python -m grpc_tools.protoc -I proto --python_out=proto --grpc_python_out=proto \
	  --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto $(PROTOS)

fmt: setup ## Format the code
	ruff format $(SOURCES)
	ruff check --fix $(SOURCES)
