"""`ddprun`'s commands, and one of them: what the doctor finds, asks and says."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from launch import cli, doctor, secret
from launch.cli import main

pytestmark = [pytest.mark.timeout(40), pytest.mark.usefixtures("no_world")]

DEADLINE_S = 20.0


# -- commands ---------------------------------------------------------------------------------------------------------


def test_a_command_is_called_with_what_follows(monkeypatch):
    called = []
    monkeypatch.setitem(cli.SUBCOMMANDS, "keygen", "launch.secret:told")
    monkeypatch.setattr(secret, "told", called.append, raising=False)
    assert main(["keygen", "-x", "y"]) == 0
    assert called == [["-x", "y"]]


def test_a_command_that_is_a_job(monkeypatch, capsys):
    monkeypatch.setitem(cli.JOBS, "tune", ("ddp.__main__", "--tune"))
    assert main(["tune", "-n", "2", "--dry-run", "--", "--max", "1"]) == 0
    assert capsys.readouterr().out.count("-m ddp.__main__ --tune --max 1\n") == 2


def test_a_command_that_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(cli.SUBCOMMANDS, "chaos", "ddp.no_such_module:main")
    assert main(["chaos"]) == 2
    assert "chaos: expected the module ddp.no_such_module, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, program",
    [
        (["bench", "-n", "2", "--max-mb", "1"], "-m ddp.bench --max-mb 1"),
        (["bench", "-n2", "--max-mb=1", "-n", "3"], "-m ddp.bench --max-mb=1 -n 3"),
        (["--tune", "-n", "2"], "-m ddp.bench --tune"),
    ],
)
def test_what_ddprun_does_not_know_is_the_commands(argv, program, capsys):
    argv[1:1] = ["--dry-run"]
    assert main(argv) == 0
    assert capsys.readouterr().out.count(f"{program}\n") == 2


def test_help_of_a_command_that_is_a_job(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["tune", "-h"])
    assert ended.value.code == 0 and "--max-mb" in capsys.readouterr().out


@pytest.mark.parametrize("argv", (["./doctor"], ["-n", "1", "doctor"], ["-n1", "doctor", "x"]))
def test_a_script_of_a_commands_name(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("doctor").write_text("")
    assert main(["--dry-run", *argv]) == 0
    assert re.search(r"(\./)?doctor( x)?\n$", capsys.readouterr().out)


# -- the doctor -------------------------------------------------------------------------------------------------------


def test_doctor(capsys):
    """This machine runs the tests, so it is well."""
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= len(doctor.CHECKS)
    assert all(re.match(r"OK      \S|note    \S", line) for line in lines)
    for word in ("Python 3.", "with CURVE", "MPI", "/dev/shm", "open files", "cores", "127.0.0.1", "name"):
        assert any(word in line for line in lines), word


def test_doctor_with_a_problem(monkeypatch, capsys):
    def broken():
        yield doctor.Finding(doctor.PROBLEM, "it is broken", "mend it")
        yield doctor.Finding(doctor.NOTE, "else it is well")

    monkeypatch.setattr(doctor, "CHECKS", (broken,))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == "problem it is broken; mend it\nnote    else it is well\n"


PROBES = {
    "it says": ("say(x=1)", {"x": 1}),
    "it raises": ("import no_such_library", {"error": "ModuleNotFoundError: No module named 'no_such_library'"}),
    "it crashes": ("import os; os.abort()", {"error": "exit status -6"}),
    "it hangs": ("import time; time.sleep(100)", {"error": "no answer within 0.5 s"}),
}


@pytest.mark.parametrize("code, answer", PROBES.values(), ids=PROBES)
def test_doctor_asks(code, answer, monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_S", 0.5 if "hangs" in answer.get("error", "") or "sleep" in code else DEADLINE_S)
    assert doctor._probe(code) == answer


SAME_MPI = [
    ("Open MPI v5.0.11", "mpiexec (Open MPI) 5.0.11\n", True),
    ("Open MPI v4.1.4", "mpiexec (OpenRTE) 4.1.4\n", True),
    ("Open MPI v5.0.11", "mpiexec (OpenRTE) 4.1.4\n", False),
    ("MPICH Version:      4.2.3", "HYDRA build details:\n    Version:    4.2.3\n", True),
    ("MPICH Version:      4.2.3", "mpiexec (Open MPI) 4.2.3\n", False),
]


@pytest.mark.parametrize("library, mpiexec, same", SAME_MPI)
def test_doctor_compares_mpis(library, mpiexec, same):
    assert doctor._same_mpi(library, mpiexec) == same


def test_doctor_tries_an_endpoint(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", ())
    assert main(["doctor", "--rdzv", f"127.0.0.1:{cli._free_port()}"]) == 0
    assert re.match(r"note    127.0.0.1:\d+ does not answer here and now: .*--key-file PATH", capsys.readouterr().out)


def test_doctors_meet(tmp_path):
    key, endpoint = tmp_path / "key", f"127.0.0.1:{cli._free_port()}"
    assert main(["keygen", str(key)]) == 0
    argv = [sys.executable, "-m", "launch", "doctor", "--nodes", "2", "--rdzv", endpoint, "--key-file", str(key)]
    with subprocess.Popen([*argv, "--node-rank", "1"], stdout=subprocess.PIPE, text=True) as other:
        ended = subprocess.run([*argv, "--node-rank", "0"], capture_output=True, text=True, timeout=DEADLINE_S)
        out, _ = other.communicate(timeout=DEADLINE_S)
    assert ended.returncode == other.returncode == 0
    assert f"OK      all 2 hosts met at {endpoint}\n" in ended.stdout
    assert re.search(r"OK      node 0's clock is [+-]0\.\d\d\d s from ours\n", out)


def test_doctor_reads_recordings(monkeypatch, capsys):
    reader = types.ModuleType("ddp.doctor")
    reader.diagnose = lambda paths: f"read {paths}"
    monkeypatch.setattr(doctor, "find_spec", lambda name: True)
    monkeypatch.setattr(doctor, "import_module", lambda name: {"ddp.doctor": reader}[name])
    assert main(["doctor", "a.json", "b.json"]) == 0
    assert capsys.readouterr().out == "read ['a.json', 'b.json']\n"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert main(["doctor", "a.json"]) == 2
    assert "expected the module ddp.doctor" in capsys.readouterr().err


def test_doctor_finds_no_recording(monkeypatch, capsys):
    def diagnose(paths):
        raise ValueError(f"no record in {paths}")

    monkeypatch.setattr(doctor, "import_module", lambda name: types.SimpleNamespace(diagnose=diagnose))
    monkeypatch.setattr(doctor, "find_spec", lambda name: True)
    assert main(["doctor", "a.json"]) == 2
    assert capsys.readouterr().err == "ddprun: doctor: no record in ['a.json']\n"
