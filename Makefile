# Reusing Trained Networks. Two commands matter: `make book` and `make test`. `make` alone lists the rest.
VENV   ?= .venv
PYTHON ?= python3
SCALE  ?= laptop
SEED   ?= 0
CH     ?=

BIN   := $(VENV)/bin
READY := $(VENV)/.ready
# Compiling all of it takes a minute; what is imported is compiled then.
PIP   := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
ONE   := OMP_NUM_THREADS=1
TORCH := $(shell grep -E '^torch(vision)?==' requirements.lock)

.PHONY: help book test test-all html lab chapter smoke check lines benchmark address install clean
.DEFAULT_GOAL := help

help:
	@echo "make book                          run every chapter at the laptop scale, then build the HTML"
	@echo "make test                          unit tests, then every notebook against its stored outputs"
	@echo "make test-all                      the same with every row of every chapter and all that is trained in notebooks"
	@echo "make lab                           open the notebooks in JupyterLab"
	@echo "make html                          build the HTML from the stored outputs (seconds)"
	@echo "make chapter CH=01_dfad SCALE=smoke   run one chapter (SCALE: smoke, laptop, colab, paper; SEED: 0)"
	@echo "make smoke                         run every chapter at the smoke scale, into _build/smoke"
	@echo "make benchmark                     steps per second beside plain loops"
	@echo "make lines                         lines of code, room by room"
	@echo "make check                         style, types and the direction of imports"
	@echo "make address URL=https://github.com/...   set the repository's address everywhere"
	@echo "make clean                         remove what was built (not .venv, not your records)"
	@echo "Another environment: VENV=/path/to/venv. Another Python: PYTHON=python3.12."

book: $(READY)
	@echo "[book 1/2] chapters at the laptop scale"
	@$(BIN)/python book/execute.py
	@echo "[book 2/2] pages"
	@$(MAKE) --no-print-directory html

html: $(READY)
	@$(BIN)/python book/report.py
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@echo "The book is at _build/html/index.html"

test: $(READY)
	@echo "[test 1/2] unit tests, the rules of the notebooks, the book in a browser"
	@$(ONE) $(BIN)/python -m pytest -q -n 2 --dist worksteal tests
	@echo "[test 2/2] every notebook, run afresh against its stored outputs"
	@$(ONE) $(BIN)/python -m pytest -q -n 2 --dist loadscope --nbval --nbval-current-env notebooks

test-all: $(READY)
	@$(ONE) $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "" tests
	@$(ONE) REUSELIB_RECOMPUTE=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope --nbval --nbval-current-env notebooks

lab: $(READY)
	@$(BIN)/jupyter lab --notebook-dir notebooks

benchmark: $(READY)
	@$(ONE) $(BIN)/python -m pytest -q benchmarks --benchmark-columns=median,ops,rounds --benchmark-group-by=group

lines: $(READY)
	@$(BIN)/python book/lines.py

chapter: $(READY)
	@test -n "$(CH)" || { echo "Which chapter? For example: make chapter CH=01_dfad SCALE=smoke"; exit 2; }
	@$(BIN)/python book/execute.py $(CH) --scale $(SCALE) --seed $(SEED)

smoke: $(READY)
	@$(BIN)/python book/execute.py --scale smoke

address:
	@$(PYTHON) book/address.py "$(URL)"

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

install: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@test -x $(BIN)/python || { echo "[install 1/4] virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[install 2/4] PyTorch (the first time: several minutes, up to 6 GB)"
	@$(PIP) $(TORCH)
	@echo "[install 3/4] everything else, exact versions"
	@$(PIP) -r requirements.lock
	@echo "[install 4/4] reuselib"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find reuselib tests book workflow -name __pycache__ -prune -exec rm -rf {} +
