# make demo: set up and answer a question about real documents, offline.
# make test: set up everything and run the tests.
# Python 3.13, 3.12 or 3.11, whichever is found first and can make a virtual environment.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  $$p -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
  >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
DOCS ?=
BIN := $(VENV)/bin
CONSTRAINTS := -c constraints.txt
# an asynchronous function that awaits nothing turns errors into rejections; windows are browsers' own
UNLINTED := require-await,no-window
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1

.PHONY: demo test check format bench docs clean

demo: $(VENV)/.light
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo.sh $(DOCS)

# a file's tests run in one process and in order: they share what the file prepared
test: $(VENV)/.full
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.full
	$(BIN)/ruff format --check src tests recipes
	$(BIN)/ruff check src tests recipes
	$(BIN)/deno fmt --quiet --check --line-width 100 src/onecard/web/static
	$(BIN)/deno lint --quiet --rules-exclude=$(UNLINTED) src/onecard/web/static
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit src/onecard --durations=0 --durations-min=1

format: $(VENV)/.full
	$(BIN)/ruff format src tests recipes
	$(BIN)/ruff check --fix src tests recipes
	$(BIN)/deno fmt --quiet --line-width 100 src/onecard/web/static

bench: $(VENV)/.full
	@ls tests/bench/bench_*.py | sed 's|^|$(BIN)/python |'

docs: $(VENV)/.full
	$(BIN)/pip install --quiet $(CONSTRAINTS) -e ".[docs]"
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --quiet --strict

$(VENV)/.light: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: there is no Python 3.11, 3.12 or 3.13 here that can make a virtual environment"; \
  echo "  fix: apt-get install python3-venv, or make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the light dependencies (no torch) into $(VENV), $$($(BIN)/python --version)"
	@$(BIN)/pip install --quiet $(CONSTRAINTS) -e . 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/python -c "import onecard, xllamacpp, faiss, onnxruntime"
	@touch $@

# torch comes first and alone: asked for through another package, pip would take the newest build
$(VENV)/.full: $(VENV)/.light
	@echo "installing everything (7 GB) into $(VENV)"
	@$(BIN)/pip install --quiet torch==2.14.1 torchvision==0.29.1 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/pip install --quiet $(CONSTRAINTS) -e ".[all,ultralytics,dev]" 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/python -c "import torch, sentence_transformers, trl, diffusers, ultralytics, faster_whisper, pytest, ruff"
	@touch $@

clean:
	rm -rf $(VENV) site build dist
