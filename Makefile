# Each target makes its own environment (.venv) from nothing: Python >= 3.11, pip and make are enough.
#   make run                 the default job: real brain MR in, a report out
#   make run EXTRAS=cuda     the same on a GPU (tpu: on a TPU)
#   make test                the tests
PYTHON ?= python3
EXTRAS ?=
ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
comma := ,
space := $(subst ,, )
wanted = $(subst $(space),$(comma),$(strip $(EXTRAS) $(1)))
# One stamp for each set of extras: pip is asked again only when pyproject.toml has changed.
stamp = $(VENV)/made-$(subst $(comma),-,$(call wanted,$(1)))

.PHONY: run test lint clean

# The CPU's fast convolutions come with it, unless EXTRAS names an accelerator.
run: $(call stamp,$(if $(EXTRAS),,cpu))
	@$(BIN)/medjax train brain_tumor_mri $(ARGS)

test: $(call stamp,test)
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(call stamp,dev)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

$(VENV)/made-%: $(VENV)/made pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".$(if $*,[$(subst -,$(comma),$*)])"
	@touch $@

$(VENV)/made-: $(VENV)/made pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# Debian's python3 comes without ensurepip: virtualenv stands in, fetched beside the environment, not into the system.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "medjax needs Python >= 3.11: make PYTHON=python3.12"; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	  $(PYTHON) -m pip install --quiet --target $(VENV).tool virtualenv && \
	  PYTHONPATH=$(VENV).tool $(PYTHON) -m virtualenv --quiet $(VENV); }
	@touch $@

clean:
	rm -rf $(VENV) $(VENV).tool
