# Everything a person or CI runs. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
BENCHES := bench-roundtrip bench-dispatcher bench-latency bench-neighbours bench-tracker bench-queries bench-sweep \
	bench-retention bench-export bench-gateway bench-live bench-erasure bench-tracing
.PHONY: help setup run test test-kafka test-cluster test-ledger test-upgrade test-operations fuzz n8n test-n8n check format lock bench $(BENCHES)

help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with everything pinned

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV) (about half a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

run: setup ## Set up, then run the whole system on this machine
	@exec $(BIN)/chat-sessions up

PYTEST := $(BIN)/python -m pytest --no-loadscope-reorder

test: setup ## Every test: on the embedded broker and, where Java and Maven are, on Apache Kafka
	@$(BIN)/python -m tests

test-kafka: setup ## Every test that needs a broker, on Apache Kafka (Java 17 and Maven)
	@TEST_ENGINE=kafka $(PYTEST) -n 3 tests/e2e tests/integration

test-cluster: setup ## Failures of a three-broker Apache Kafka under load (Java 17 and Maven; about 5 minutes)
	@$(BIN)/python -m pytest tests/cluster

test-ledger: setup ## 20,000 messages while dispatchers join, leave and die, as a ledger (about 2 minutes)
	@$(BIN)/python -m pytest -s tests/ledger

test-upgrade: setup ## A rolling upgrade under load, from UPGRADE_FROM (the commit before the newest migration) to this code
	@UPGRADE_FROM=$(UPGRADE_FROM) $(BIN)/python -m pytest -s tests/upgrade

test-operations: setup ## Alerts fired for real, explained by doctor, ended by the runbook; every panel's query (5 minutes)
	@command -v promtool prometheus >/dev/null || echo "prometheus and promtool are not installed: apt-get install prometheus"
	@$(BIN)/python -m pytest -s tests/operations

fuzz: setup ## Requests made of the OpenAPI document, for FUZZ_SECONDS (600): every answer is as it says
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(BIN)/python -m pytest -s tests/integration/test_gateway_fuzz.py

n8n: setup ## Install and run a real n8n (4 GB and several minutes the first time, outside this directory)
	@exec $(BIN)/python -m services.local.n8n

test-n8n: setup ## The dispatcher against that real n8n, answer by answer
	@TEST_REAL_N8N=1 $(BIN)/python -m pytest tests/n8n

check: setup ## Format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: setup ## Rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## Resolve requirements.lock anew from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --extra local --extra dev pyproject.toml -o requirements.lock

bench: $(BENCHES) ## Every benchmark

bench-roundtrip: setup ## Messages/s and latency through the whole running system
	@$(BIN)/python -m tests.benchmarks.roundtrip

EVENTS ?= 100000
BROKER ?= embedded

bench-tracker: setup ## Events/s that trackers fold, beside the bare writing of the same rows (EVENTS=100000 BROKER=kafka)
	@$(BIN)/python -m tests.benchmarks.tracker --events $(EVENTS) --broker $(BROKER)

bench-dispatcher: setup ## Messages/s of one dispatcher, beside bare HTTP clients
	@$(BIN)/python -m tests.benchmarks.dispatcher

bench-latency: setup ## What the dispatcher adds to a call, beside a bare loop, at half its load
	@$(BIN)/python -m tests.benchmarks.latency

bench-neighbours: setup ## A persona's throughput beside one that hangs, and alone
	@$(BIN)/python -m tests.benchmarks.neighbours

bench-queries: setup ## Reads on 100 thousand and on SESSIONS sessions (1 million; 10 million takes 15 minutes and 25 GB), kept in DATA
	@$(BIN)/python -m tests.benchmarks.queries --large $(or $(SESSIONS),1000000) $(if $(DATA),--data $(DATA))

bench-sweep: setup ## The fold's rate while a sweep times out 200 thousand sessions
	@$(BIN)/python -m tests.benchmarks.sweeping

bench-retention: setup ## The longest stall of a writer while a month of SESSIONS sessions (1 million) is dropped
	@$(BIN)/python -m tests.benchmarks.retention --sessions $(or $(SESSIONS),1000000)

bench-export: setup ## The gateway's memory while it exports SESSIONS sessions (1 million), and what others wait meanwhile
	@$(BIN)/python -m tests.benchmarks.exporting --sessions $(or $(SESSIONS),1000000)

bench-gateway: setup ## Messages accepted, sessions and lists read by the gateway, beside bare routes (BROKER=kafka)
	@$(BIN)/python -m tests.benchmarks.gateway --broker $(BROKER)

bench-live: setup ## What CLIENTS (1000) streams cost a gateway at RATE (1000) changes/s: memory, delay
	@$(BIN)/python -m tests.benchmarks.live --clients $(or $(CLIENTS),1000) --rate $(or $(RATE),1000)

bench-erasure: setup ## The fold's rate, and its longest wait, while a user with SESSIONS sessions (100 thousand) is erased
	@$(BIN)/python -m tests.benchmarks.erasure --sessions $(or $(SESSIONS),100000)

bench-tracing: setup ## What metrics, logs and exported traces cost a message, beside a system that tells nothing
	@$(BIN)/python -m tests.benchmarks.observing
