# Every target does its own set-up; everything lands in .venv, site/ and outputs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := outputs/demo
SLOW := outputs/slow.json
MODEL ?= mmada-emoji-chat

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-integration test-slow coverage lint docs docs-serve clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## make .venv with everything that development needs

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python {v[0]}.{v[1]} is too old; say PYTHON=python3.11 or newer" if v < (3, 11) else 0)'
	test -x $(BIN)/pip && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt lmms-eval # its 60 dependencies are not needed to test our adapter
	touch $@

demo: setup ## draw a picture, ask about it, and solve a sum; results in outputs/demo
	mkdir -p $(OUT)
	$(BIN)/mmada draw "two red hearts above a dog" --model $(MODEL) --seed 3 --force -o $(OUT)/drawing.png --trace $(OUT)/drawing.gif
	$(BIN)/mmada ask $(OUT)/drawing.png "how many red hearts?" --model $(MODEL) --think
	$(BIN)/mmada chat "Tom has 8 coins. Tom finds 5 more. How many coins does Tom have now?" --model $(MODEL) --think --force --trace $(OUT)/answer.gif

test: setup ## run the default tests on two processes, and name the slowest ten
	$(BIN)/python -m pytest -n 2 --durations=10

test-integration: setup ## run the tests with browsers, processes and whole commands; CI runs both
	$(BIN)/python -m pytest -n 2 --durations=10 -m "integration and not slow"

test-slow: setup ## run the tests that are marked slow, and properties on more examples; results in outputs/slow.json
	$(BIN)/python -m pytest -n 2 --durations=10 -m "slow or hypothesis" --hypothesis-profile=thorough --junit-xml outputs/slow.xml; \
	status=$$?; $(BIN)/python scripts/slow_summary.py outputs/slow.xml -o $(SLOW) && exit $$status

coverage: setup ## run all tests but the slow ones and say which lines of the package they reach
	$(BIN)/python -m pytest -n 2 -m "not slow" --cov=mmada --cov-report=term:skip-covered

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

package: setup ## build wheel and sdist, check them, install the wheel and try it; CLEAN=--clean fetches the dependencies anew
	$(BIN)/python scripts/check_package.py $(CLEAN)

docs: setup ## build the site into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: setup ## show the site on http://127.0.0.1:8000 and build it again when a file changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --watch mmada

clean: ## remove .venv, site/ and outputs/
	rm -rf $(VENV) site outputs
