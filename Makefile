# make demo   pictures from text, by the model in the package
# make test   the tests
# make lint   style and types
#
# Each makes what it needs: an environment in .venv, with the package in it. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed
	$(BIN)/pinxit generate "a red apple" "a blue cat" "grinning face" "a green heart" \
		-n 6 --rerank 24 --seed 0 -o outputs/demo.png

# One thread a worker: PyTorch's own threads would fight over the cores.
test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "pinxit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 ..."; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@ .venv/installed
