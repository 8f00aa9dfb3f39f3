# Everything a newcomer needs: `make backtest` and `make test` set up by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The tests: a worker a core, each with up to a gigabyte, not more than eight; WORKERS=1 where memory is short. Each gets a
# run of tests, and who is done takes a part of what another has left, so that the tests of a file and their fixtures
# stay together.
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
STAMP  := $(VENV)/.installed
# The tensors here are small: more threads than one cost more than they bring, above all on a busy machine.
export OMP_NUM_THREADS ?= 1
# Where a machine is set to keep no bytecode, every worker and every command that a test starts would compile all anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup backtest test slow check bench bench-data bench-market bench-terms bench-optimizer clean help
.DEFAULT_GOAL := help

help:
	@echo "make setup     make the environment in $(VENV)"
	@echo "make backtest  backtest strategies/factor_ebm.py on the bundled data, write an HTML report"
	@echo "make test      the tests, on all cores (under 10 minutes)"
	@echo "make slow      the long statistical laws, on all cores"
	@echo "make check     ruff, mypy, tests"
	@echo "make bench     the benchmarks behind the numbers in the documents"
	@echo "make bench-data    what the data doctor finds of planted faults, and how fast a cache loads"
	@echo "make bench-terms   each objective beside other libraries; 10,000 problems against Clarabel; compiling once"
	@echo "make bench-optimizer  distributions of portfolios; LeastTrade; choices of names, rugged energies and index"
	@echo "                      tracking beside solvers; half an hour of problems with all rules mixed"
	@echo "make bench-market  the market model scored day by day beside others; writes docs/EVIDENCE.md; its time"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) scripts/setup_env.py $(VENV)
	@touch $(STAMP)

backtest: $(STAMP)
	$(BIN)/portfolio-ebm backtest strategies/factor_ebm.py

test: $(STAMP)
	$(PYTEST)

slow: $(STAMP)
	$(PYTEST) -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

bench: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/main_job.py
	$(BIN)/python benchmarks/projections.py
	$(BIN)/python benchmarks/convex_walk_forward.py
	$(BIN)/python benchmarks/convex_many.py
	$(BIN)/python benchmarks/market_score.py

# Real data to plant faults in: --data FOLDER, or the folder that the script names.
bench-data: $(STAMP)
	$(BIN)/python benchmarks/data_loading.py
	$(BIN)/python benchmarks/data_faults.py

# Factor returns of your own: $(BIN)/python -m benchmarks.market --factors F.csv --test-from DATE
bench-market: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.market
	$(BIN)/python -m benchmarks.anomalies
	$(BIN)/python benchmarks/market_time.py

bench-terms: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/terms.py
	$(BIN)/python benchmarks/terms_more.py
	$(BIN)/python benchmarks/terms_problems.py
	$(BIN)/python benchmarks/compiled_once.py

# Real data: --data FOLDER with french/, stocks/ and orlib/, or the folder that the scripts name.
bench-optimizer: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/ensemble.py
	$(BIN)/python benchmarks/least_trade.py
	$(BIN)/python -m benchmarks.optimizer
	$(BIN)/python -m benchmarks.optimizer.ablation
	$(BIN)/python -m benchmarks.optimizer.beside
	$(BIN)/python -m benchmarks.optimizer.rugged
	$(BIN)/python -m benchmarks.optimizer.tracking
	$(BIN)/python benchmarks/mixed_problems.py --seconds 1800

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
