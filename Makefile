# The whole project in a few commands. `make` alone lists them. GNU make and a POSIX shell; without make, see README.md.
PYTHON ?= python3
BROWSER ?=
PORT ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on

.DEFAULT_GOAL := help
.PHONY: help course test check lessons refresh library readme bench docs prefetch constraints chromium clean
.DELETE_ON_ERROR:

help: ## this list
	@echo 'tl_nb: transfer learning, notebook first'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

course: $(VENV)/.course ## install, fetch models and data, open JupyterLab (BROWSER=none, PORT=8899 for servers)
	@$(BIN)/python tools/lab.py $(if $(filter none,$(BROWSER)),--no-browser) $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev chromium prefetch ## everything that is checked: in sync, lessons in fresh kernels, tests
	@$(BIN)/python tools/sync.py
	@$(BIN)/python tools/lessons.py
	@$(BIN)/python -m pytest

lessons: $(VENV)/.dev prefetch ## run the lessons in fresh kernels, offline, and check them (NBS="nbs/01_prototype.ipynb")
	@$(BIN)/python tools/lessons.py $(NBS)

refresh: $(VENV)/.dev prefetch ## run the lessons and store their outputs, then the README (NBS=...)
	@$(BIN)/python tools/lessons.py --write $(NBS)
	@$(BIN)/python tools/readme.py

library: $(VENV)/.dev ## write tl_nb/ and NOTICE from the notebooks; clean the notebooks, link each to the next
	@$(BIN)/python tools/navigate.py
	@$(BIN)/nbdev-export
	@$(BIN)/nbdev-clean
	@$(BIN)/python tools/sync.py --notice

readme: $(VENV)/.dev ## write README.md from nbs/index.ipynb
	@$(BIN)/python tools/readme.py

bench: $(VENV)/.bench $(VENV)-adapt/.made prefetch ## side by side with peers: medians of interleaved runs, as ratios
	@$(BIN)/python -m benchmarks

docs: $(VENV)/.dev ## the site in _docs/, by Quarto where it is installed, else by pandoc; every link is followed
	@$(BIN)/python tools/docs.py

prefetch: $(VENV)/.course ## fetch and check the models and data of the course
	@$(BIN)/python -c 'from tl_nb.assets import prefetch; prefetch()'

constraints: $(VENV)/.bench ## write constraints.txt from what is installed (for maintainers)
	@$(BIN)/python tools/constraints.py

chromium: $(VENV)/.dev
	@$(BIN)/python tools/browser.py

clean: ## remove the environment and everything built; the cache of models and data stays
	rm -rf $(VENV) $(VENV)-adapt _docs _proc build dist *.egg-info .pytest_cache nbs/nbdev.yml nbs/llms.txt nbs/api
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per extra, newer than the two files that decide what it installs: the second run costs nothing.
$(VENV)/.dev: $(VENV)/.course
$(VENV)/.bench: $(VENV)/.dev
$(VENV)/.course $(VENV)/.dev $(VENV)/.bench: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing tl_nb[$*] into $(VENV): some minutes and up to 7 GB the first time, mostly PyTorch."
	$(PIP) -e '.[$*]' -c constraints.txt
	@touch $@

# A peer that brings TensorFlow has an environment of its own. Where that cannot be made, the benchmark says so and goes on.
$(VENV)-adapt/.made: | $(BIN)/pip
	@echo "Installing the peer 'adapt' into $(VENV)-adapt: up to 2 GB, mostly TensorFlow."
	@rm -rf $(VENV)-adapt
	@$(PYTHON) -m venv $(VENV)-adapt && $(VENV)-adapt/bin/python -m pip install --disable-pip-version-check 'adapt>=0.4.4' \
		&& touch $@ || echo "No environment for 'adapt' could be made: benchmarks.coral goes on without it."

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "tl_nb needs Python 3.10 or newer; this one is $$($(PYTHON) -V 2>&1). Name another: make course PYTHON=python3.11"; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --clear $(VENV) || { \
		echo "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
