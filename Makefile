# `make demo` and `make test` do all their set-up themselves; everything lands in .venv and outputs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := outputs/demo
MODEL ?= mmada-emoji-max

.PHONY: setup demo test lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
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
