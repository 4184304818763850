# make run: the main job. make run NB="02 04": these notebooks. make test: all tests.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run all paper test test-parameters docs go lab colab lint clean

# the first that runs, and can make an environment: a command of that name may be a stub
runs = $(shell $(1) -c 'import ensurepip, venv' > /dev/null 2>&1 && echo $(1))
PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13,$(call runs,$(python))))
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
NB ?= 01 02 04 06
EVERY := $(sort $(foreach notebook,$(wildcard notebooks/*.ipynb),$(firstword $(subst _, ,$(notdir $(notebook))))))

help:
	@echo "make run [NB=\"02 04\"]  execute the main job (01 02 04 06), or these notebooks, into executed/"
	@echo "make all               execute every notebook"
	@echo "make paper             every notebook at the published sizes (many hours); resumable; renews what ships"
	@echo "make test              run the tests, notebooks included"
	@echo "make test-parameters   change every parameter of every notebook, and see what is remade"
	@echo "make docs              build the site, from executed notebooks, into site/html"
	@echo "make go                install the wheel that brings KataGo's network"
	@echo "make lab               open JupyterLab"
	@echo "make colab REPOSITORY=owner/name   link every notebook to Colab, from this repository on GitHub"
	@echo "make lint              check style"
	@echo "make clean             remove what tests and runs left, but neither models/ nor results"

# torch first: it must not be replaced by what another package asks for. Modules are compiled when
# they are first imported: most never are, and all of them take minutes. They must be kept then,
# also where the environment says otherwise, or every process compiles them again.
unexport PYTHONDONTWRITEBYTECODE

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 is needed, with venv, and none of the commands python3.11," >&2; \
	  echo "python3.12 and python3.13 runs. Install one (on Debian and Ubuntu: apt install" >&2; \
	  echo "python3.11-venv; elsewhere from python.org), or name one: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "setting up .venv with $$python, $$("$$python" --version) (once; a few minutes)"; \
	rm -rf .venv; \
	"$$python" -m venv .venv
	$(PIP) "$$(grep '^torch==' requirements.txt)"
	$(PIP) -r requirements.txt -c constraints.txt
	@touch $@

# papermill logs what a notebook prints; standard output repeats what its worker processes do
PAPERMILL := PLAIN_PROGRESS=1 TQDM_MININTERVAL=15 ../$(BIN)/papermill --no-progress-bar --log-output -k python3

define execute
	@mkdir -p executed
	@cd notebooks; for number in $(1); do \
	  for notebook in $${number}_*.ipynb; do \
	    echo "== $$notebook"; \
	    $(PAPERMILL) "$$notebook" "../executed/$$notebook" > /dev/null; \
	  done; \
	done
endef

run: $(STAMP)
	$(call execute,$(NB))
	@if [ "$(NB)" = "01 02 04 06" ]; then $(BIN)/python -m saehelpers.figures.documents . --run; fi

all: $(STAMP)
	$(call execute,$(EVERY))

# a step is one notebook or two, and a file of parameters; each continues where it was. This alone renews
# what is shipped: rows, the figures of docs/, the documents' numbers, by docs/templates/, and at its end
# docs/executed/, every notebook as committed, with its outputs.
paper: $(STAMP)
	@mkdir -p executed
	@export SHIP_RESULTS=1; cd notebooks; steps=(paper/*.yaml); for i in "$${!steps[@]}"; do \
	  step=$$(basename "$${steps[i]}" .yaml); \
	  echo "== step $$((i + 1)) of $${#steps[@]}: $$step"; \
	  numbers=$${step%%_*}; for number in $${numbers//-/ }; do \
	    $(PAPERMILL) -f "$${steps[i]}" "$$(echo $${number}_*.ipynb)" \
	      "../executed/paper_$${number}_$${step#*_}.ipynb" > /dev/null; \
	  done; \
	done; \
	../$(BIN)/python -m saehelpers.experiments.calibration ..; \
	../$(BIN)/python -m saehelpers.figures.documents ..
	$(call execute,$(EVERY))
	@$(BIN)/python -m saehelpers.figures.executed .

test: $(STAMP)
	@rm -rf .small
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --nbmake notebooks tests tests/fresh_install.py \
	  --nbmake-timeout=600 --durations=10

# -m "": those that walk, too
test-parameters: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "" --durations=10 \
	  tests/test_parameters.py

# the site needs no network, neither does its reader
docs: .venv-docs/.installed
	@rm -rf site
	@$(PYTHON) docs/site_source.py site/source
	.venv-docs/bin/sphinx-build -q -W --keep-going -c docs site/source site/html
	@echo "open site/html/index.html"

.venv-docs/.installed: pyproject.toml
	@rm -rf .venv-docs; $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check \
	  $$($(PYTHON) -c "import tomllib; print(*(x.replace(' ', '') for x in \
	  tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs']))")
	@touch $@

go: $(STAMP)
	$(PIP) --no-deps KaTrain==1.13.0

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

colab: $(STAMP)
	$(BIN)/python docs/colab.py "$(REPOSITORY)"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

clean:
	rm -rf executed site .small .pytest_cache .ruff_cache data/activations data/world
