# Every target sets up what it needs; `make help` lists them.
#
#   PYTHON=…  the interpreter (3.11 or newer); else the first that works is taken
#   VENV=…    the folder of the environment, for a second interpreter beside the first
#   JOBS=…    processes that share the tests: else one for each processor; 0 for none
#   ARGS=…    more arguments for the command of the target

PYTHON ?=
VENV ?= .venv
JOBS ?= auto
ARGS ?=

BIN := $(VENV)/bin
SHARED_OUT := --numprocesses $(JOBS) --dist loadgroup
DEV_TOOLS := build coverage 'hatchling>=1.27' 'hypothesis>=6.100' 'mypy~=2.4' packaging pip \
	'pytest>=8.3' 'pytest-timeout>=2.3' 'pytest-xdist>=3.6' 'ruff~=0.17.6' types-psutil
METADATA := $(foreach part,client daemon,$(part)/pyproject.toml) \
	client/src/tallymark/_version.py daemon/src/tallymarkd/_version.py

# The stamp's name changes with the interpreter asked for, the tools and the place of
# the clone (an editable install holds absolute paths): another name, another set-up.
STAMP := $(VENV)/ready-$(firstword $(shell printf '%s' "$(PYTHON) $(DEV_TOOLS) $(CURDIR)" | cksum))

# What a user's shell may carry and what would send the set-up elsewhere.
unexport PYTHONHOME PYTHONPATH PIP_PREFIX PIP_TARGET PIP_USER

# It would make every start of the daemon compile every module of ours anew, which
# an installed one never does: a third of a second for each start in a test.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test test-all torture lint types units bench setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

run: $(STAMP) ## start the daemon in the foreground, with its state in ./.run
	@exec $(BIN)/python -m tallymarkd --state-dir .run $(ARGS)

demo: $(STAMP) ## four agents record while the daemon is killed: sent, stored, lost
	@$(BIN)/python benchmarks/demo.py $(ARGS)

test: $(STAMP) ## the tests, less the slow ones
	@$(BIN)/python -m pytest $(SHARED_OUT) $(ARGS)

test-all: $(STAMP) ## all tests
	@$(BIN)/python -m pytest -m 'slow or not slow' $(SHARED_OUT) $(ARGS)

torture: $(STAMP) ## break everything, count what is lost and doubled (root; long)
	@$(BIN)/python -m tests.fault.torture $(ARGS)

lint: $(STAMP) ## style and likely mistakes
	@$(BIN)/ruff check --quiet $(ARGS) .
	@$(BIN)/ruff format --check --quiet --diff .

types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy $(ARGS)

units: $(STAMP) ## write systemd/ and launchd/ anew from the templates
	@$(BIN)/python -m tests.default_units

bench: $(STAMP) ## durable events per second beside SQLite and raw fdatasync
	@$(BIN)/python benchmarks/bench.py $(ARGS)

setup: $(STAMP) ## only the environment
	@:

clean: ## remove environments, caches and builds; what is recorded in .run stays
	@rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	@rm -rf client/dist daemon/dist
	@find client daemon tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter is believed only after it ran: a name on PATH may be a shim that fails.
# It must be able to make an environment, and to install into it with a pip of its own
# (22.3 or newer, for --python) or by ensurepip, which Debian keeps in another package.
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",\
	python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3)

define FIND_PYTHON
for candidate in $(CANDIDATES); do \
	"$$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || continue; \
	"$$candidate" -m pip --python "$$candidate" --version || \
		"$$candidate" -c 'import ensurepip' || continue; \
	chosen="$$candidate"; break; \
done >/dev/null 2>&1
endef

define NO_PYTHON
cannot set up $(VENV): $(if $(PYTHON),$(PYTHON) is not a working Python 3.11 or newer with pip; \
give another PYTHON=,no Python 3.11 or newer with pip was found; install python3 and python3-pip\
, or give PYTHON=/path/to/python3)
endef

define INSTALL
if "$$chosen" -m pip --python "$$chosen" --version >/dev/null 2>&1; then \
	"$$chosen" -m venv --without-pip "$(VENV)" && \
	set -- "$$chosen" -m pip --python "$(BIN)/python"; \
else \
	"$$chosen" -m venv "$(VENV)" && \
	set -- "$(BIN)/python" -m pip; \
fi && \
"$$@" --disable-pip-version-check --no-input install -e ./client -e ./daemon $(DEV_TOOLS)
endef

$(STAMP): $(METADATA)
	@if [ -e "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ]; then \
		echo "cannot set up $(VENV): it is there and is no virtual environment;" \
			"give another VENV=" >&2; exit 1; fi
	@chosen=; $(FIND_PYTHON); \
	[ -n "$$chosen" ] || { echo "$(strip $(NO_PYTHON))" >&2; exit 1; }; \
	echo "setting up $(VENV) with $$chosen ($$("$$chosen" -V)); this is done once"; \
	rm -rf "$(VENV)"; \
	log=$$(mktemp) && trap 'rm -f "$$log"' EXIT && \
	{ { $(INSTALL); } >"$$log" 2>&1 || { cat "$$log" >&2; rm -rf "$(VENV)"; \
		echo "cannot set up $(VENV) with $$chosen: the output is above" >&2; exit 1; }; }
	@touch $@
