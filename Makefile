# Two commands do all the set-up:   make train   |   make test
# Settings go into ARGS:            make train ARGS="decoder=conditional trainer.max_epochs=5"
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e
ARGS ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: train test quick lint docs sync leet clean

train: .venv/installed
	$(BIN)/python train.py $(ARGS)

test: .venv/installed-for-tests lint
	$(PYTEST) --dist worksteal $(ARGS)

# without the tests marked slow
quick: .venv/installed-for-tests
	$(PYTEST) --dist worksteal -m "not slow" $(ARGS)

lint: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# the pages of docs/ with the API reference, as a site in site/
docs: .venv/installed-for-tests
	$(BIN)/mkdocs build --strict --quiet

# uploads every run that was logged to W&B offline and is not there yet; needs a key: .venv/bin/wandb login
sync: .venv/installed
	@find outputs -type d -path '*/wandb/offline-run-*' -prune -exec $(BIN)/wandb sync {} +

# every run that was logged to W&B, in the terminal; space adds a run to the curves, q leaves
leet: .venv/installed
	@mkdir -p outputs/.leet && find outputs/.leet -type l -delete
	@find "$$PWD/outputs" -type d \( -path '*/wandb/offline-run-*' -o -path '*/wandb/run-*' \) -prune \
	  -exec ln -s {} outputs/.leet/ \;
	@$(BIN)/wandb leet outputs/.leet

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "refold needs Python 3.11 or later; name one: make train PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(INSTALL) .
	@touch $@

.venv/installed-for-tests: .venv/created pyproject.toml constraints.txt
	$(INSTALL) '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt skfolio  # its data file alone, for data=panel
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt vus  # published metrics that ours are compared with
	@touch $@ .venv/installed

clean:
	rm -rf .venv .pytest_cache .ruff_cache
