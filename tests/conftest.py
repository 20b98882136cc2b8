"""What every test run shares: the same random numbers, and a header that says what is here and what will be skipped."""

import importlib.util

import pytest

import core


@pytest.fixture(autouse=True)
def _same_random_numbers():
    core.manual_seed(0)


def pytest_report_header(config):
    there = [n for n in ("torch", "cupy", "mpi4py", "zmq") if importlib.util.find_spec(n)]
    absent = [n for n in ("torch", "cupy", "mpi4py", "zmq") if n not in there]
    return f"optional libraries: {', '.join(there) or 'none'}; not installed, their tests are skipped: {', '.join(absent) or 'none'}"
