# Everything a reader of the README types. `make help` lists it.
VENV ?= .venv
PY := $(VENV)/bin/python
PIP_FLAGS := -q --disable-pip-version-check
FAULT ?=
SOURCES := agent opsdash trainer tests benchmarks screenshots examples

.DEFAULT_GOAL := help
.PHONY: help demo demo-fl flower test soak check bench screenshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp per extra: a second call installs nothing unless the pins changed.
$(VENV)/.train: pyproject.toml constraints.txt
	@test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[train,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PY) -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[train,dev,bench]'
	@touch $@

# Flower wants an older rich than the pinned one: an environment of its own, in which
# everything else, torch first of all, is that of the first one.
$(VENV)/flower/.stamp: $(VENV)/.train
	@$(PY) -m venv --clear --without-pip $(VENV)/flower
	@$(PY) -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$($(VENV)/flower/bin/python -c 'import site; print(site.getsitepackages()[0])')/outer.pth
	@grep -v '^rich' constraints.txt > $(VENV)/flower/constraints.txt
	$(PY) -m pip --python $(VENV)/flower/bin/python install $(PIP_FLAGS) \
		-c $(VENV)/flower/constraints.txt 'opsdash[flower]'
	@touch $@

demo: $(VENV)/.train ## train on two ranks and attach the dashboard (FAULT=straggler|hang|corrupt|kill)
	@$(VENV)/bin/opsdash demo ddp $(if $(FAULT),--fault $(FAULT))

demo-fl: $(VENV)/.train ## one server, three clients, and the dashboard (FAULT=reconnect too)
	@$(VENV)/bin/opsdash demo fl $(if $(FAULT),--fault $(FAULT))

flower: $(VENV)/flower/.stamp ## what the test of the Flower adapter needs; it is skipped without

test: $(VENV)/.dev ## the whole suite
	@$(PY) -m pytest -n 2 --dist loadgroup

soak: $(VENV)/.dev ## the fault suites with their full counts
	@$(PY) -m pytest -m soak --timeout 3600

check: $(VENV)/.dev ## format, lint, types, import contracts
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.bench ## every figure against its peer, into docs/benchmarks.md
	@$(PY) benchmarks/all.py

screenshots: $(VENV)/.dev ## the pictures, from real runs
	@$(PY) -m screenshots.make

clean: ## remove the environment, caches and demo runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache runs build dist *.egg-info
