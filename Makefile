# Everything here needs Python 3.11 or newer with its venv module, and nothing else.
#
#   make demo         durable workflows on SQLite; a worker is killed half-way and nothing is lost
#   make dev          the example site, a worker and the wake-up proxy, for clicking around
#   make test         the tests, on every database that can be had here
#   make prove        kill -9 before and after every SQL statement and COMMIT, on each database; ARGS='--sample 200'
#   make faults       a thousand lost COMMITs, poison, dead lines, servers that crash, full disks, wrong clocks
#   make chaos        10,000 workflows on each database, under 200 kill -9, 50 zombies and 10 server crashes
#   make availability a PostgreSQL primary is lost under load, and its standby takes over; needs root: docs/proofs.md
#   make prove-all    all of these in full size, one after the other, with a summary: takes a night
#   make mutants      the engine without one safeguard at a time: the tests must notice each; prints the table
#   make bench        the benchmarks, beside raw SQL and the peers that are installed: see docs/performance.md
#   make pictures     the tables and pictures of docs/performance.md, again, from benchmarks/results.json
#   make screenshots  the pictures in docs/images; needs Debian's packages chromium and chromium-driver
#   make lint         ruff and mypy
#   make format       let ruff rewrite what it can
#
# PYTHON=python3.13 uses another Python, VENV=.venv-313 another environment, DJANGO='Django>=6.0,<6.1' another Django,
# LEGS=sqlite,postgres runs only those legs of the tests, ARGS='-k claim' goes to pytest.

PYTHON ?= python3
VENV ?= .venv
DJANGO ?= Django>=5.2
LEGS ?=
ARGS ?=

python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check
installed := $(VENV)/.installed

.PHONY: help demo dev test mutants prove faults chaos availability prove-all bench pictures screenshots lint format migrations clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(installed)
	$(python) -m example_project.demo

dev: $(installed)
	$(python) -m example_project.dev

test: $(installed)
	$(python) -m tests.run $(if $(LEGS),--only $(LEGS)) -- $(ARGS)

prove: $(installed)
	$(python) -m tests.prove crashes $(ARGS)

faults: $(installed)
	$(python) -m tests.prove faults $(ARGS)

chaos: $(installed)
	$(python) -m tests.prove chaos $(ARGS)

availability: $(installed)
	$(pip) install --quiet 'patroni[etcd3,psycopg3]>=3.0.3'
	$(python) -m tests.prove availability $(ARGS)

prove-all: $(installed)
	$(python) -m tests.prove all

mutants: $(installed)
	$(python) -m tests.prove mutants $(ARGS)

bench: $(installed)
	$(python) -m benchmarks $(ARGS)

pictures: $(installed)
	$(python) -m benchmarks.pictures

screenshots: $(installed)
	$(python) -m tests.screenshots

lint: $(installed)
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) manage.py makemigrations --check --dry-run
	$(python) manage.py makemigrations --check --dry-run --settings tests.settings

format: $(installed)
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

migrations: $(installed)
	$(python) manage.py makemigrations
	$(python) manage.py makemigrations testapp --settings tests.settings

# The stamp is the last thing written: an interrupted or failed installation is simply repeated.
$(installed): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("pipeteer_django needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv --clear $(VENV)
	$(pip) install --quiet --upgrade pip
	$(pip) install --quiet --editable '.[dev]' '$(DJANGO)'
	@$(pip) install --quiet --editable '.[mariadb]' '$(DJANGO)' > $(VENV)/mariadb.log 2>&1 \
	  && $(python) -c 'import MySQLdb' 2>> $(VENV)/mariadb.log \
	  || echo "NOTE: mysqlclient could not be installed, so MariaDB will NOT be tested. It needs a C compiler, pkg-config and MariaDB's headers (Debian: gcc pkg-config libmariadb-dev); then 'make clean'. Its output is in $(VENV)/mariadb.log."
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
