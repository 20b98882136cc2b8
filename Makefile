# make demo: trains on real digits with two processes.   make test: the whole suite.   Both make .venv if there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ORACLE := .venv-oracle
GPU_CHECK := .venv-gpu-check
MPICH := .venv-mpich
WORKERS := --numprocesses 2

.PHONY: demo test test-oracle test-mpich test-gpu-check lint package clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev,mpi-local]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/ddprun -n 2 examples/digits.py

test: $(VENV)/installed
	$(BIN)/python -m pytest $(WORKERS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

# The same tables against PyTorch itself.
$(ORACLE)/installed: pyproject.toml
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --upgrade pip
	$(ORACLE)/bin/python -m pip install --quiet 'torch==2.13.0' --editable '.[dev]'
	touch $@

test-oracle: $(ORACLE)/installed
	$(ORACLE)/bin/python -m pytest $(WORKERS) -k oracle

# What runs under mpiexec, under the other MPI: `make test` has Open MPI.
$(MPICH)/installed: pyproject.toml
	$(PYTHON) -m venv $(MPICH)
	$(MPICH)/bin/python -m pip install --quiet --upgrade pip
	$(MPICH)/bin/python -m pip install --quiet mpich 'mpi4py>=4' --editable '.[dev]'
	touch $@

test-mpich: $(MPICH)/installed
	$(MPICH)/bin/python -m pytest $(WORKERS) -k 'mpi and not mpijob and not compile'

# What is known of the GPU without one: every kernel compiles, without spills, for three architectures, and every name is CuPy's.
$(GPU_CHECK)/installed: pyproject.toml
	$(PYTHON) -m venv $(GPU_CHECK)
	$(GPU_CHECK)/bin/python -m pip install --quiet --upgrade pip
	$(GPU_CHECK)/bin/python -m pip install --quiet --editable '.[dev,gpu-check]'
	touch $@

test-gpu-check: $(GPU_CHECK)/installed
	$(GPU_CHECK)/bin/python -m pytest $(WORKERS) tests/test_cuda_compile.py tests/test_cuda_names.py

# The wheel builds, installs into a clean environment, and works there.
package: $(VENV)/installed
	rm -rf build/wheel build/clean
	$(BIN)/python -m build --wheel --outdir build/wheel .
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet build/wheel/*.whl
	cd build/clean && bin/ddprun -n 2 -m ddp

clean:
	rm -rf $(VENV) $(ORACLE) $(GPU_CHECK) $(MPICH) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache runs data
