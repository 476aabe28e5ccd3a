# Two commands: `make book` builds the pages, `make test` proves everything in them.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --quiet --disable-pip-version-check
NOTEBOOKS := $(wildcard book/*.ipynb)
PAGES  := _build/html

say = @printf '\n\033[1m==> %s\033[0m\n' "$(1)"

.DEFAULT_GOAL := help
.PHONY: help book test lab refresh mutants benchmark clean environment peers lint types unit notebooks site

help:  ## say what there is
	@printf 'The MAML book\n\n'
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done
	@printf '\nAnother Python: make book PYTHON=python3.12\n'

book: environment  ## build the pages and print where to open them
	$(call say,Building the pages; a warning is an error)
	@$(VENV)/bin/jupyter-book build . -W -n --keep-going -q || { rm -rf _build/.doctrees; exit 1; }
	@printf '\nThe book is ready. Open this in a browser:\n\n    file://%s/$(PAGES)/index.html\n\n' "$(CURDIR)"

test: environment peers lint types unit notebooks site  ## prove everything: code, notebooks, pages
	$(call say,Everything holds)

lab: environment  ## open the chapters in JupyterLab
	$(call say,Starting JupyterLab; stop it with Ctrl-C)
	@$(VENV)/bin/jupyter lab book

refresh: environment  ## run the chapters and store their outputs (the only writer of outputs)
	$(call say,Running the chapters and storing what they print)
	@$(PY) tests/refresh.py $(ONLY)

mutants: environment peers  ## break MAML on purpose and watch the tests turn red
	$(call say,Breaking MAML on purpose; each break must turn a test red)
	@$(PY) tests/mutants.py

benchmark: environment  ## race the kit against its peers, side by side
	$(call say,Installing the rivals)
	@$(PIP) install -r tests/benchmarks/requirements.txt -c requirements.txt
	$(call say,Racing)
	@$(PY) tests/benchmarks/run.py

clean:  ## remove what was built, and the environment
	rm -rf _build $(VENV) mamlkit.egg-info .pytest_cache .mypy_cache .ruff_cache
	find mamlkit tests book -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is reused until requirements.txt, pyproject.toml or the folder itself changes.
environment:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "No $(PYTHON) here: install Python 3.11 or newer, or name one with PYTHON=/path/to/python3.12."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version 2>&1) is too old, the book needs 3.11 or newer: install one, then name it with PYTHON=python3.12."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python has no venv module: install it (on Debian and Ubuntu: apt install python3-venv), then run make again."; exit 1; }
	@wanted="$$(cat requirements.txt pyproject.toml | cksum) $(CURDIR)"; \
	if [ "$$(cat $(VENV)/.installed 2>/dev/null)" = "$$wanted" ] && $(PY) -c pass 2>/dev/null; then \
	  printf '\033[1m==> %s\033[0m\n' "The environment in $(VENV) is up to date"; \
	else \
	  printf '\033[1m==> %s\033[0m\n' "Making the environment in $(VENV) with $$($(PYTHON) --version): $$(grep -c == requirements.txt) pinned packages, some minutes the first time"; \
	  if $(PY) -c pass 2>/dev/null; then :; else $(PYTHON) -m venv --clear $(VENV); fi && \
	  $(PIP) install -r requirements.txt && \
	  $(PIP) install --no-deps --no-build-isolation --editable . && \
	  echo "$$wanted" > $(VENV)/.installed; \
	fi

peers: environment
	@wanted="$$(cat tests/requirements.txt requirements.txt | cksum)"; \
	if [ "$$(cat $(VENV)/.peers 2>/dev/null)" != "$$wanted" ]; then \
	  printf '\n\033[1m==> %s\033[0m\n' "Installing what only the tests need"; missing=0; \
	  for peer in $$(grep -v '^#' tests/requirements.txt); do \
	    if $(PIP) install "$$peer" -c requirements.txt; then echo "installed $$peer"; \
	    else missing=1; echo "NOT INSTALLED: $$peer; the tests that need it will be skipped, not passed"; fi; \
	  done; \
	  if [ $$missing = 0 ]; then echo "$$wanted" > $(VENV)/.peers; fi; \
	fi

lint: environment
	$(call say,Style: ruff over kit and tests and notebooks)
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check mamlkit tests book/_ext
	@$(PY) tests/refresh.py --check

types: environment
	$(call say,Types: mypy over the kit)
	@$(VENV)/bin/mypy

unit: environment peers
	$(call say,The kit: unit tests and the examples in its docstrings)
	@$(PY) -m pytest -q tests mamlkit --doctest-modules --ignore=tests/test_site.py --ignore=tests/test_browser.py --ignore=tests/benchmarks

notebooks: environment
	$(call say,The chapters: every cell run again and compared with what the page shows)
	@$(PY) -m pytest -q --nbval -n 2 --dist loadfile $(NOTEBOOKS)

site: peers
	$(call say,The site: built from nothing)
	@rm -rf _build
	@$(MAKE) --no-print-directory book
	$(call say,The site: links and pictures; then in a real browser)
	@$(PY) -m pytest -q tests/test_site.py tests/test_browser.py
