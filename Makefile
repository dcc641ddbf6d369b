# Everything a newcomer types. `make demo` and `make test` set up what they need themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# System libraries that the bpy module links against (it opens no window).
BPY_LIBS := libx11-6 libxext6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1

.PHONY: setup demo down status test test-long bench-train bench-render chaos check clean help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Create .venv from the lock, with bpy's system libraries when run as root

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed (bpy 4.5 exists for no other); install it or pass PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import bpy' >/dev/null 2>&1 || $(MAKE) --no-print-directory bpy-libs
	@touch $(STAMP)

.PHONY: bpy-libs
bpy-libs:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq $(BPY_LIBS) >/dev/null; \
	else \
		echo "bpy needs system libraries; run: sudo apt-get install $(BPY_LIBS)"; exit 2; \
	fi
	@$(BIN)/python -c 'import bpy' >/dev/null

demo: setup ## Run the tiny recipe as a Ray job, from 3D files to a report and a registered model
	@$(BIN)/mvforge demo

down: ## Stop the Ray head that `make demo` started (and no other)
	@test -x $(BIN)/mvforge && $(BIN)/mvforge down || true

status: setup ## Show the state of every step
	@$(BIN)/mvforge status tiny

.PHONY: browser
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq chromium >/dev/null || echo "no Chromium: the tests that look at the report page are skipped"; \
		else \
			echo "no Chromium: the tests that look at the report page are skipped (sudo apt-get install chromium)"; \
		fi; }

test: setup browser ## All tests except the long ones, with real Ray, Blender, DeepSpeed and MLflow
	$(BIN)/python -m pytest -q --durations=10

test-long: setup ## The long proofs
	$(BIN)/python -m pytest -q --durations=10 --timeout=1800 -m long

bench-train: setup ## Training steps, attention and sampling: full size on a GPU, tiny on a CPU (OUT=bench.json to go on later)
	@$(BIN)/mvforge bench train $(if $(OUT),--out $(OUT)) $(if $(BUDGET),--budget $(BUDGET))

bench-render: setup ## Cost and quality of the render profiles (set MVFORGE_ASSETS)
	@$(BIN)/mvforge bench render

chaos: setup ## A small run killed, paused, starved and damaged 100 times, resumable (OUT=chaos FAULTS=100 MINUTES=90)
	@$(BIN)/mvforge chaos --out $(or $(OUT),chaos) --faults $(or $(FAULTS),100) --minutes $(or $(MINUTES),90)

check: setup ## Lint, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/contract

clean: ## Remove the environment and build files (never the store)
	rm -rf $(VENV) build dist *.egg-info
