"""Two hosts with networks of their own: namespaces of this machine, joined by a cable that can be cut.

Needs root and `ip` (iproute2). The cable is plain (veth), or one with a rate and a delay: by netem where the kernel has it, else by
`tests.link`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest

from tests import link
from tests.jobs import environment
from tests.link import ip

DEADLINE_S = 30.0
ADDRESSES = ("10.87.0.1", "10.87.0.2")
BITS_PER_S, DELAY_S = 1e9, 1e-3  # of a cable that has them


def why_not() -> str:
    """Empty where namespaces can be made."""
    if not shutil.which("ip"):
        return "needs ip: apt install iproute2"
    name = f"lockstep-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode == 0:
        ip("netns", "del", name)
        return ""
    return f"needs the right to make network namespaces: {made.stderr.strip()}"


@dataclass(frozen=True)
class Hosts:
    names: tuple[str, str]
    cables: tuple[str, str]

    def start(self, node: int, *command: str) -> subprocess.Popen[str]:
        argv = ["ip", "netns", "exec", self.names[node], *command]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(argv, text=True, env=environment(), **pipes)

    def ddprun(self, node: int, key: str, *args: str) -> subprocess.Popen[str]:
        where = ["--nodes", "2", "--node-rank", str(node), "--rdzv", f"{ADDRESSES[0]}:29500", "--key-file", key]
        return self.start(node, sys.executable, "-m", "launch", *where, *args)

    def vacate(self) -> None:
        """End what runs there, as what lies on the other side of a cut cable does not by itself."""
        for name in self.names:
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
            for pid in map(int, found.split()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        ip("-n", self.names[0], "link", "set", self.cables[0], "down")


@contextmanager
def joined(delayed: bool = False) -> Iterator[Hosts]:
    """Two hosts, joined by a plain cable or by one with BITS_PER_S and DELAY_S. OSError: there can be no such cable here."""
    made = Hosts(*(tuple(f"{kind}{os.getpid()}{node}" for node in "ab") for kind in ("lockstep-", "ls")))
    process = None
    try:
        for name in made.names:
            ip("netns", "add", name)
        process = _lay(made, delayed)
        for name, cable, address in zip(made.names, made.cables, ADDRESSES):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", cable, "up")
        yield made
    finally:
        if process is not None:
            process.communicate()
        made.vacate()
        for name in made.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _lay(made: Hosts, delayed: bool) -> subprocess.Popen[bytes] | None:
    """The cable, and the process that it is, if it is one."""
    (one, other), (name, name_2) = made.cables, made.names
    ip("-n", name, "link", "add", one, "type", "veth", "peer", other, "netns", name_2)
    if not delayed or all(_netem(*end) for end in zip(made.names, made.cables)):
        return None
    ip("-n", name, "link", "del", one)
    return link.laid(made.names, made.cables, BITS_PER_S, DELAY_S)


def _netem(name: str, cable: str) -> bool:
    """Whether the kernel could do it."""
    words = f"netem rate {BITS_PER_S:.0f}bit delay {DELAY_S * 1e6:.0f}us limit 2000".split()
    done = subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", cable, "root", *words], capture_output=True)
    return done.returncode == 0


def finish(*processes: subprocess.Popen[str], timeout_s: float = DEADLINE_S) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each."""
    try:
        texts = [process.communicate(timeout=timeout_s) for process in processes]
        return [(process.returncode, *text) for process, text in zip(processes, texts)]
    finally:
        for process in processes:
            process.kill()


# -- fixtures: a test module imports those that it uses ----------------------------------------------------------------


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Joined by a plain cable."""
    if reason := why_not():
        pytest.skip(reason)
    with joined() as made:
        yield made


@pytest.fixture
def far_hosts() -> Iterator[Hosts]:
    """Joined by a cable with a rate and a delay."""
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        try:
            made = stack.enter_context(joined(delayed=True))
        except OSError as error:
            pytest.skip(f"needs a kernel with netem, or TUN devices: {error}")
        yield made


@pytest.fixture
def key(tmp_path) -> str:
    """The path of a key file."""
    path = tmp_path / "key"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    return str(path)
