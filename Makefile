# `make run` and `make test` set up .venv on first use; nothing else is needed but Python 3.11 to 3.13.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PACKAGES := ir verifier lowering synth

.PHONY: run test test-thorough lint bench-proof bench-cpu bench-cost bench-search bench-gpu resources certificates clean

run: $(READY)
	$(BIN)/synth prove-and-run specs/attention.toml

# three workers for two cores: tests wait for servers, browsers and processes of their own
test: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-thorough: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal -m ""

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy -n 2
	$(BIN)/lint-imports

bench-proof: $(READY)
	$(BIN)/python benchmarks/bench_proof.py

bench-cpu: $(READY)
	$(BIN)/python benchmarks/bench_cpu.py

bench-cost: $(READY)
	$(BIN)/python benchmarks/bench_cost.py --write

# Runs also where only torch, triton and numpy are installed, on certificates made elsewhere (docs/benchmark.md).
bench-gpu:
	$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) benchmarks/bench_gpu.py $(ARGS)

bench-search: $(READY)
	$(BIN)/python benchmarks/bench_search.py

# every shipped kernel compiled ahead of time for every target, no GPU: docs/resources.md
resources: $(READY)
	$(BIN)/synth resources --out benchmarks/results/resources.jsonl --page docs/resources.md

# the kernels that the GPU benchmark runs, proved, compiled and cross-checked; needs no GPU
certificates: $(READY)
	$(BIN)/python benchmarks/certify.py

# torch and triton belong together, so both versions are exact. torch goes first: where a CPU build of that
# version is on offer pip prefers it, and the rest then takes torch as it is. Python compiles what it imports when it
# does; compiling everything in advance takes longer than the rest of this.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
