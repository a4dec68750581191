# The whole interface for users and developers. `make` alone says what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTEST_ARGS ?=
SYSTEMD_CACHE ?= /var/cache/ktool-systemd
BENCH_ARGS ?=

.PHONY: help setup setup-provision up down test test-lab test-systemd lint format bench lock

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: Debian packages, .venv with pinned dependencies
	@scripts/setup

setup-provision: ## what provisioning other machines needs besides: libvirt, nspawn, Ansible, SSH
	@scripts/setup provision

up: setup ## take this machine to a running cluster with the example application
	@.venv/bin/ktool up --example

down: ## remove everything that `make up` made on this machine
	@if [ -x .venv/bin/ktool ]; then .venv/bin/ktool down; else echo 'down: nothing was set up here'; fi

test: ## run the tests, in a network namespace that has no way out (PYTEST_ARGS=...)
	@scripts/setup kubectl provision-tests
	@.venv/bin/python -m provision.machine_image >/dev/null # takes package sources, which tests do not have
	@scripts/in-netns .venv/bin/python -m pytest $(PYTEST_ARGS)

test-lab: ## whole labs in their complete form: VMs, Vagrant, bare metal (50 minutes)
	@scripts/setup kubectl provision-tests
	@.venv/bin/python -m provision.machine_image debian-12 debian-12+etcd-server+haproxy >/dev/null
	@.venv/bin/python -m provision.providers.redfish >/dev/null
	@scripts/in-netns .venv/bin/python -m pytest -m lab $(PYTEST_ARGS)

test-systemd: ## `make up` on a fresh Debian with systemd, booted for it (its files are kept in SYSTEMD_CACHE)
	@scripts/systemd-root $(SYSTEMD_CACHE)
	@KTOOL_SYSTEMD_ROOT=$(SYSTEMD_CACHE)/root scripts/in-netns \
		.venv/bin/python -m pytest tests/provision/test_systemd_machine.py $(PYTEST_ARGS)

lint: setup-provision ## style, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: setup ## rewrite the code in the project's style
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: setup-provision ## measure start-up, memory and throughput, printed as a table (BENCH_ARGS=...)
	@.venv/bin/python -m provision.machine_image >/dev/null
	@scripts/in-netns .venv/bin/python -m bench $(BENCH_ARGS)

lock: ## compile constraints.txt from pyproject.toml (versions and hashes)
	@scripts/lock
