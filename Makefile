# `make demo` and `make test` do all their set-up themselves; everything lands in .venv and outputs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := outputs/demo
MODEL ?= mmada-emoji-max

.PHONY: setup demo test lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python {v[0]}.{v[1]} is too old; say PYTHON=python3.11 or newer" if v < (3, 11) else 0)'
	test -x $(BIN)/pip && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	mkdir -p $(OUT)
	$(BIN)/mmada draw "two red hearts above a dog" --model $(MODEL) --seed 3 -o $(OUT)/drawing.png --trace $(OUT)/drawing.gif
	$(BIN)/mmada ask $(OUT)/drawing.png "how many red hearts?" --model $(MODEL) --think
	$(BIN)/mmada chat "Tom has 8 coins. Tom finds 5 more. How many coins does Tom have now?" --model $(MODEL) --think --trace $(OUT)/answer.gif

test: setup
	$(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) outputs
