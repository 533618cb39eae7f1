# The two commands of the README, and what stands behind them. uv is used where it is, and fetched into .venv where it is not.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,13))' 2>/dev/null && { echo $$p; break; }; done)
UV := $(shell command -v uv || echo .uv/bin/uv)
BIN := .venv/bin
STAMP := .venv/installed
CLIPS ?= nano
RECIPE ?= $(if $(filter nano,$(CLIPS)),nano,nano-wide)

.PHONY: demo install up down test test-slow test-qlora test-topology audit check docs nano-weights lock clean

demo: install  ## install, start Prefect, run pvtt/full-curriculum on the nano recipe, follow it
	@$(BIN)/pvtt run --recipe $(RECIPE) --clips "$(CLIPS)" $(ARGS)

install: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is wanted and none is on the PATH. Install it (Debian: apt-get install python3 python3-venv), or set PYTHON=."; exit 1; }
	@test -x "$$(command -v $(UV))" || { echo "fetching uv into .uv"; $(PYTHON) -m venv .uv && .uv/bin/pip install -q "uv>=0.9"; }
	@test -d .venv || $(UV) venv -q --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	$(UV) pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(STAMP)

up: install  ## start the local Prefect server and worker, deploy
	@$(BIN)/pvtt up

down:  ## stop what demo or up started
	@if [ -x $(BIN)/pvtt ]; then $(BIN)/pvtt down; fi

test: install  ## the default suite, a process a core, four at most
	$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: install test-qlora  ## the kill tests, Ceph RGW, the whole curriculum: about 45 minutes
	$(BIN)/python -m pytest -q -m slow $(ARGS)

test-qlora: install  ## the 4-bit base, by a bitsandbytes of its own that no other process loads
	$(UV) pip install -q --python $(BIN)/python --target .qlora --no-deps --require-hashes -r requirements/qlora.txt
	PYTHONPATH=.qlora $(BIN)/python -m pytest -q tests/pvtt_model/low_rank/test_nf4.py

test-topology: install  ## PostgreSQL, Redis, Ceph RGW, two raylets, Prefect server and worker as processes: an hour on two cores, and the hour of kills
	$(BIN)/python -m pytest -q -s -m slow tests/topology $(ARGS)

audit:  ## known vulnerabilities of the locked dependencies; asks PyPI, and fails where that does not answer
	$(UV) tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements/cluster.txt
	$(UV) tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements/dev.txt
	$(UV) tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements/docs.txt

check: install  ## lint, types, import law, secrets
	$(BIN)/python .ci/secrets.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pvtt_model infra tasks flows cli
	$(BIN)/lint-imports

docs:  ## the pages of docs/, README and log as a site in site/, every link and docstring checked; an environment of its own, without torch
	@test -x "$$(command -v $(UV))" || { echo "fetching uv into .uv"; $(PYTHON) -m venv .uv && .uv/bin/pip install -q "uv>=0.9"; }
	@test -d .docs-venv || $(UV) venv -q --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .docs-venv
	$(UV) pip install -q --python .docs-venv/bin/python --require-hashes -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 .docs-venv/bin/mkdocs build -q --strict
	@echo "site/index.html; to read it with its search: $(PYTHON) -m http.server -d site -b 127.0.0.1 8000"

nano-weights: install  ## train the nano models from their seeds and pack them into pvtt_model/nano/weights: hours on two cores
	$(BIN)/python -m pvtt_model.nano.pretrain $(ARGS)

lock:  ## pin the dependencies again
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements/runtime.txt
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra cluster -c requirements/runtime.txt pyproject.toml -o requirements/cluster.txt
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group pyproject.toml:diffsynth -c requirements/dev.txt -o requirements/diffsynth.txt
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-deps --group pyproject.toml:qlora -c requirements/dev.txt -o requirements/qlora.txt
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group pyproject.toml:docs -c requirements/dev.txt -o requirements/docs.txt

clean: down  ## remove the environment and all local state
	rm -rf .venv .docs-venv .qlora .uv .pvtt site
