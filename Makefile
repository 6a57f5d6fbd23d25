# make demo: set up and answer a question about real documents, offline.   make test: set up all and run the tests.
PYTHON ?= python3.11
VENV ?= .venv
DOCS ?=
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check bench docs clean

demo: $(VENV)/.light
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo.sh $(DOCS)

test: $(VENV)/.full
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

check: $(VENV)/.full
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/unit src/onecard

bench: $(VENV)/.full
	@ls tests/bench/bench_*.py | sed 's|^|$(BIN)/python |'

docs: $(VENV)/.full
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --quiet

$(VENV)/.light: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not here"; echo "  fix: apt-get install python3.11-venv, or make PYTHON=python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the light dependencies (no torch) into $(VENV)"
	@$(BIN)/pip install --quiet -c constraints.txt -e . 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/python -c "import onecard, xllamacpp, faiss, onnxruntime"
	@touch $@

# torch comes first and alone: asked for through another package, pip would take the newest build and gigabytes with it
$(VENV)/.full: $(VENV)/.light
	@echo "installing everything (7 GB) into $(VENV)"
	@$(BIN)/pip install --quiet torch==2.14.1 torchvision==0.29.1 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/pip install --quiet -c constraints.txt -e ".[rag,langchain,llamaindex,tracking,finetune,tinylm,asr,detect,diffusion,dev]" 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/python -c "import torch, sentence_transformers, trl, diffusers, ultralytics, faster_whisper, pyannote.metrics, espeakng_loader, pytest, ruff"
	@touch $@

clean:
	rm -rf $(VENV) site build dist
