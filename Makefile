# Two commands: `make book` builds the pages, `make test` proves everything in them.

PYTHON ?= python3
override PY := .venv/bin/python
export PYTHON

# What a shell has told Python, Jupyter, matplotlib, torch, pytest and git stays outside: no figure and no verdict may
# depend on who types `make`. Proxies, certificates and where pip fetches from pass.
FOREIGN := PYTHON% PYTEST% MPL% MATPLOTLIB% IPYTHON% JUPYTER_% NBVAL% SPHINX% MYPY% RUFF_% COVERAGE% COV_% TORCH% PYTORCH% \
	ATEN_% OMP_% GOMP_% KMP_% MKL_% OPENBLAS_% BLIS_% NUMEXPR_% DNNL_% ONEDNN_% NUMPY_% NPY_% CUBLAS_% TQDM_% XLA_% JAX_% \
	LC_% LANG LANGUAGE COLUMNS LINES FORCE_COLOR CLICOLOR% PY_COLORS CDPATH GREP_% VENV VIRTUAL_ENV BOOK_HTML BASH_FUNC_% \
	GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE SOURCE_DATE_EPOCH MAMLKIT_THREADS MAMLKIT_SHAKEN
HARMLESS := PYTHON JUPYTER_CONFIG_DIR JUPYTER_TOKEN JUPYTER_RUNTIME_DIR TORCHINDUCTOR_CACHE_DIR
unexport $(filter-out $(HARMLESS),$(filter $(FOREIGN),$(.VARIABLES)))
export PYTHONUTF8 := 1

ifneq (,$(findstring i,$(firstword -$(MAKEFLAGS))))
$(error make -i goes on after a failure, so that nothing would be proved; leave it out)
endif

say = @printf '\n\033[1m==> %s\033[0m\n' "$(1)"
pytest = @$(PY) -m pytest -q

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test kit lab course pdf offline refresh mutants portable costs seeds benchmark clean python environment peers lint types unit notebooks site

help:  ## say what there is
	@printf 'The MAML book\n\n'
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | while read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done
	@printf '\nAnother Python: make book PYTHON=python3.12\n'

book: environment  ## build the pages and print where to open them
	@$(PY) .ci/tasks.py pages

test: environment peers lint types unit notebooks site  ## prove everything: code, notebooks, pages
	$(call say,Everything holds)
	@$(PY) .ci/tasks.py skipped

kit: environment  ## build the library's wheel and try it in an empty environment
	@$(PY) .ci/tasks.py kit

lab: environment  ## open your copies of the chapters, in work/, in JupyterLab (ONLY=book: the book's own; LAB=--option)
	@$(if $(filter book,$(ONLY)),:,$(PY) .ci/tasks.py work)
	$(call say,Starting JupyterLab; stop it with Ctrl-C)
	@$(PY) -m jupyterlab $(LAB) $(if $(filter book,$(ONLY)),book,work)

course: environment peers  ## make what a teacher takes, in _build/course: student and teacher editions, slides
	$(call say,Making the course)
	@$(PY) course/editions.py _build/course
	@$(PY) course/slides.py _build/course/slides

pdf: book peers  ## print the whole book into one file, _build/book.pdf
	$(call say,Printing the book)
	@$(PY) .ci/pdf.py

offline: book  ## pack pages, chapters and library for a place without a network, in _build/course
	$(call say,Packing the book)
	@$(PY) course/editions.py _build/course offline

refresh: environment  ## run the chapters and store their outputs (the only writer of outputs)
	$(call say,Running the chapters and storing what they print)
	@$(PY) tests/refresh.py $(ONLY)

mutants: environment peers  ## break MAML on purpose and watch the tests turn red
	$(call say,Breaking MAML on purpose; each break must turn a test red)
	@$(PY) tests/mutants.py

portable: environment peers  ## run what the pages show as other machines would run it
	$(call say,Other machines: fewer threads and older processors; what the page shows must hold)
	@$(PY) tests/portable.py $(TURN)

costs: environment  ## measure what a chapter costs to run, and write it onto its card (ONLY=name)
	$(call say,What the chapters cost: nothing else should run)
	@$(PY) tests/refresh.py --costs $(ONLY)

seeds: environment  ## run the chapters from other seeds: what they say must hold there too
	$(call say,Other seeds)
	@$(PY) tests/seeds.py $(ONLY)

benchmark: environment  ## race the kit against its peers, side by side
	$(call say,Installing the rivals)
	@$(PY) -m pip --quiet --disable-pip-version-check install -r tests/benchmarks/requirements.txt -c requirements.txt
	$(call say,Racing)
	@$(PY) tests/benchmarks/run.py

clean: python  ## remove what was built, and the environment
	@"$$PYTHON" -I .ci/tasks.py clean

python:
	@command -v "$$PYTHON" >/dev/null 2>&1 || { \
	  echo "No $$PYTHON here: install Python 3.11 or newer, or name one with PYTHON=/path/to/python3.12."; exit 1; }
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$("$$PYTHON" --version 2>&1) is too old, the book needs 3.11 or newer: install one, then name it with PYTHON=python3.12."; exit 1; }

environment: python
	@"$$PYTHON" -I .ci/tasks.py environment

peers: environment
	@"$$PYTHON" -I .ci/tasks.py peers

lint: environment
	$(call say,Style: ruff over kit and tests and notebooks)
	@$(PY) -m ruff check . && $(PY) -m ruff format --check mamlkit tests book/_ext course .ci
	@$(PY) tests/refresh.py --check

types: environment
	$(call say,Types: mypy over the kit)
	@$(PY) -m mypy

unit site: export SKIPPED := .pytest_cache/skipped

unit: environment peers
	$(call say,The kit: unit tests and the examples in its docstrings)
	@rm -f $(SKIPPED)
	$(pytest) -n 2 --dist loadfile tests mamlkit --doctest-modules --ignore=tests/test_site.py --ignore=tests/test_browser.py --ignore=tests/benchmarks

notebooks: environment
	$(call say,The chapters: every cell run again and compared with what the page shows)
	$(pytest) --nbval -n 2 --dist loadfile $(wildcard book/*.ipynb)

site: peers
	@$(PY) .ci/tasks.py pages --fresh
	$(call say,The site: links and pictures; then in a real browser)
	$(pytest) -n 2 tests/test_site.py tests/test_browser.py
