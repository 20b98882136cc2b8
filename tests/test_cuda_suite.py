"""`python -m tests.gpu` itself: what it says without a GPU, that a section that crashes or hangs stops no other, and that its checks run,
on the device made of NumPy.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.backend.cuda import is_available
from tests.gpu import benchmarks, ranks, report, sections
from tests.gpu.report import Check, Found, Timing
from tests.gpu.sections import SECTIONS, Section

ROOT = Path(__file__).parent.parent


def run(*arguments):
    command = [sys.executable, "-m", "tests.gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=ROOT)


@pytest.mark.skipif(is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(tmp_path):
    done = run(str(tmp_path / "report.md"))
    assert done.returncode == 2 and not done.stdout and not list(tmp_path.iterdir())
    (line,) = done.stderr.splitlines()
    assert line.startswith("tests.gpu: no GPU: expected CuPy") and line.endswith("nothing ran")


def test_arguments():
    assert run("--list").stdout.splitlines() == list(SECTIONS)
    done = run("--only", "kernels,nothing")
    assert done.returncode == 2 and "got nothing" in done.stderr
    assert sum(section.quick_limit_s for section in SECTIONS.values()) < 600, (
        "the quick run is to end within ten minutes"
    )


def test_a_rehearsal_of_a_part(tmp_path):
    """Two sections, in processes of their own, and the report."""
    path = tmp_path / "report.md"
    done = run(str(path), "--fake", "--plain", "--quick", "--only", "devices,memory")
    assert done.returncode == 0, done.stdout + done.stderr + path.read_text()
    assert done.stdout.splitlines()[-1] == f"tests.gpu: 4 checks passed, 0 failed; report in {path}"
    text = path.read_text()
    assert "a rehearsal" in text and "- pass copies between devices: cuda:0 to cuda:0" in text and "FAIL" not in text


TRIED = [n for n in SECTIONS if n not in ("op table", "kernels", "random numbers", "devices", "memory")]


@pytest.mark.parametrize("names", [TRIED[::3], TRIED[1::3], TRIED[2::3]], ids=["a", "b", "c"])
def test_checks_run(names):
    """No check of the sections that are quick without kernels stumbles over itself; what they would find on a GPU is another matter."""
    command = [sys.executable, "-m", "tests.gpu.sections", ",".join(names), "--fake", "--plain", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=115, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    checks, timings = sections.parsed(done.stdout)
    assert {c.section for c in checks} == {n for n in names if n != "overhead"}
    rows = {"overhead": benchmarks.CALLS, "benchmarks": benchmarks.ROWS}
    assert [t.name for t in timings] == [name for n in names for name in rows.get(n, ())]
    assert not [c for c in checks if not c.passed and c.name not in NEEDS_KERNELS]


def test_verdicts(monkeypatch, tmp_path):
    """A row that misses its goal, or does not run, is a failed check of its own; the others go on."""
    rows = {
        "product": benchmarks.Row(benchmarks._BIG, benchmarks._CEILING),
        "slow": benchmarks.Row(lambda lib: (lambda: None, 1e9), benchmarks._CEILING + benchmarks._EAGER),
        "broken": benchmarks.Row(lambda lib: 1 / 0, benchmarks._EAGER),
        "quick": benchmarks.Row(lambda lib: (lambda: None, 0.0), benchmarks._EAGER),
    }
    times = {"product": [2.0, 1.0], "slow": [10.0, 20.0], "quick": [1.0]}
    made = {id(row): (name, 8e9 if name == "product" else 1e9 if name == "slow" else 0.0) for name, row in rows.items()}

    def measured(row, runs):
        name, flops = made[id(row)]
        return (times[name], flops) if name in times else row.make(None)

    monkeypatch.setattr(benchmarks, "measured", measured)
    monkeypatch.setattr(benchmarks, "ROWS", rows)
    monkeypatch.setattr(benchmarks.rehearsal, "is_on", lambda: False)
    found = list(sections.results("benchmarks", quick=True))
    checks = {c.name: c for c in found if isinstance(c, Check)}
    assert [t.name for t in found if isinstance(t, Timing)] == ["product", "slow", "quick"]
    expected = {
        "product: 80 % of the ceiling": (False, "MISSED: expected at least 0.8, measured 0.50"),
        "slow: 80 % of the ceiling": (False, "MISSED: expected at least 0.8, measured 0.01"),
        "slow: PyTorch's speed, eager": (True, "met: 2.00, wanted 1"),
        "broken": (False, "ZeroDivisionError"),
        "quick: PyTorch's speed, eager": (True, "not judged: PyTorch is not installed"),
    }
    assert checks.keys() == expected.keys()
    for name, (passed, said) in expected.items():
        assert checks[name].passed == passed and said in checks[name].detail
    path = tmp_path / "r.md"
    report.write(str(path), [Found("benchmarks", list(checks.values()), [], 1.0)], quick=True, fake=False)
    text = path.read_text()
    failed = text[text.index("## What failed") : text.index("## benchmarks")]
    assert failed.count("\n- ") == 3 and "- benchmarks, broken: ZeroDivisionError" in failed


# These compare with what only our kernels do: steps whose counts are on the device.
NEEDS_KERNELS = {"a training step in float32", "a training step in bfloat16", "a training step in float16, scaled"}


def test_the_two_processes_run():
    """The script that two processes run on a GPU, on the CPU."""
    script = ranks.CHILD.replace("BACKEND", "zmq").replace(".cuda()", "")
    assert "rank 0 loss" in ranks.run_child(script)


def test_what_hangs_or_crashes_is_a_failed_row(monkeypatch):
    monkeypatch.setitem(SECTIONS, "devices", Section("ranks:devices", 0, 0))
    found = sections.in_a_process("devices", True, ["--fake", "--plain"])
    assert [c.passed for c in found.checks] == [False] and "not done within 0 s" in found.checks[0].detail
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setitem(SECTIONS, "devices", Section("ranks:devices", 60, 60))
    found = sections.in_a_process("devices", True, ["--fake", "--plain"])
    assert "ended with status 1" in found.checks[0].detail
    lines = [
        json.dumps(["check", Check("s", "n", True, "")]),
        json.dumps(["timing", Timing("t", 1.0, None)]),
        '["check", ["s',
    ]
    assert sections.parsed("\n".join(lines)) == ([Check("s", "n", True, "")], [Timing("t", 1.0, None)])


def test_the_report(tmp_path):
    path = tmp_path / "r.md"
    found = [
        Found("one", [Check("one", "a", True, "fine"), Check("one", "b", False, "why")], [], 1.0),
        Found("two", [], [Timing("row", 2.0, 4.0, "detail"), Timing("alone", 2.0, None)], 2.0),
    ]
    report.write(str(path), found, quick=True, fake=False)
    text = path.read_text()
    for line in (
        "# Lockstep on a GPU (quick)", "| one | 1 pass, 1 FAIL, 1 s |", "- one, b: why", "- pass a: fine", "- **FAIL** b: why",
        "| row | 2 | 4 | 2.00 | detail |", "| alone | 2 |  |  |  |",
    ):  # fmt: skip
        assert line in text.splitlines(), line
