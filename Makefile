# The two commands for newcomers are `make demo` and `make test`; `make` lists the others.
.DEFAULT_GOAL := help
.PHONY: help setup demo down test check lint unit sanity integration molecule e2e lab-tests test-faults bench lock clean

BIN := .venv/bin
# Molecule runs from a directory of its own; the inventory finds the lab by this.
export MEMORYARK_LAB_STATE ?= $(CURDIR)/.lab
# Molecule and ansible-lint look for Ansible's programs on PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON ?= python3
SCENARIOS := base podman firewall networks volumes containers certificates
# What each step of a run took is shown by the step itself; this shows which step it is.
say = @printf '\n== %s  (%s)\n' "$(1)" "$$(date +%H:%M:%S)"

help: ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: .venv/installed ## install Debian packages and the locked Python environment

.venv/installed: requirements.lock pyproject.toml lab/debian-packages.txt
	$(call say,Debian packages)
	@lab/install-debian-packages
	$(call say,Python environment from requirements.lock: about 1 min)
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## deploy everything on a disposable host and send a photo through it
	@$(BIN)/lab demo

down: setup ## stop the lab and remove its hosts
	@$(BIN)/lab down --all

check: setup lint unit ## lint and unit tests, under 3 minutes

lint: setup
	$(call say,Lint)
	@$(BIN)/ruff check --quiet . lab/install-debian-packages
	@$(BIN)/ruff format --quiet --check . lab/install-debian-packages
	@$(BIN)/mypy
	@$(BIN)/yamllint --strict .
	@shellcheck .ci/run tests/run-sanity tests/run-molecule stack/base/http-check stack/base/policy-rc.d stack/nginx-proxy/nginx-reload stack/redis/redis-start
	@$(BIN)/ansible-lint --offline -q

unit: setup
	$(call say,Unit tests)
	@$(BIN)/pytest --quiet tests/unit

sanity: setup
	$(call say,ansible-test sanity of the collection)
	@tests/run-sanity

integration: setup
	$(call say,Integration tests: LINE stand-in against the official SDK; Compose files against docker-compose; Redis after a power cut; the firewall with real packets; certificates against an ACME server; the proxy from outside and by testssl.sh)
	@$(BIN)/pytest tests/integration/test_line_platform_sdk.py tests/integration/test_compose_witness.py \
	  tests/integration/test_redis_start.py tests/integration/test_firewall_packets.py \
	  tests/integration/test_certificates.py tests/integration/test_proxy.py tests/integration/test_testssl.py

molecule: setup
	$(call say,Molecule: each role on a real host: about 40 min)
	@tests/run-molecule $(SCENARIOS)

e2e: setup ## the whole product on a fresh host
	$(call say,End to end: the whole product on a real host: about 25 min)
	@$(BIN)/pytest --verbose tests/e2e

lab-tests: setup ## the lab itself
	$(call say,The lab itself: about 7 min)
	@$(BIN)/pytest --verbose tests/integration/test_lab_hosts.py

test: check sanity integration molecule e2e lab-tests ## everything that CI runs
	@$(BIN)/lab down --all

test-faults: setup ## long failure matrices, outside CI; each run leaves a report in docs/faults/
	$(call say,Faults on a real host: about 90 min)
	@$(BIN)/pytest --verbose tests/faults

bench: setup ## measure on the host of make demo, about 140 minutes; writes docs/benchmarks.md
	$(call say,Benchmarks on the host of make demo)
	@PYTHONPATH=collections $(BIN)/python -m tests.bench

lock: ## resolve requirements.lock anew
	@$(PYTHON) -m venv .lab/uv && .lab/uv/bin/pip install --quiet uv
	@.lab/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --python-version 3.11 --all-extras pyproject.toml -o requirements.lock

clean: ## stop the lab and remove everything that was made here
	@test ! -x $(BIN)/lab || $(BIN)/lab down --all
	@rm -rf .venv .lab
