"""The examples run as their docstrings say, on one process, two, and under MPI."""

import re
import sys

import pytest

from tests import jobs

DIGITS = jobs.ROOT / "examples" / "digits.py"
WAYS = {
    "python": [sys.executable],
    "ddprun -n 2": jobs.LAUNCHERS["ddprun"](2),
    "mpiexec -n 2": jobs.LAUNCHERS["mpiexec"](2) if jobs.mpiexec() else None,
}


@pytest.mark.parametrize("way", WAYS)
def test_digits(way, tmp_path):
    pytest.importorskip("sklearn", reason="the data come with scikit-learn (pip install 'lockstep-ddp[demo]')")
    if WAYS[way] is None:
        pytest.skip("mpi4py or mpiexec is not installed")
    saved = tmp_path / "digits.pth"
    done = jobs.run([*WAYS[way], str(DIGITS), "--epochs", "8", "--save", str(saved)], cwd=tmp_path)
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", done.stdout)[1])
    assert accuracy >= 95
    assert saved.exists() and f"model saved to {saved}" in done.stdout


def test_digits_refuses_what_does_not_divide():
    done = jobs.subprocess.run(
        [*jobs.LAUNCHERS["ddprun"](3), str(DIGITS)], capture_output=True, text=True, timeout=60, env=jobs.environment()
    )
    assert done.returncode == 2
    assert "--batch-size: expected a multiple of the 3 processes, got 32" in done.stderr
