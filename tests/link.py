"""A cable with a rate and a delay between two network namespaces, made in user space: kernels without netem have none.

Each end is a TUN device. A process takes what one end sends, and gives each packet to the other end when it has left at
`bits_per_s`, one after the other, and has travelled for `delay_s`; both ways at once. A packet that finds QUEUE_S of
others before it is dropped, as a switch would.

Packets are of up to 64 KB (MTU) rather than 1500 bytes: at 1 Gbit/s that is 2,000 a second, which cost the process a
tenth of a core each way, where 80,000 would need more than one core. So the time of a single packet is coarser (0.5 ms)
and headers cost nothing; rate and delay are as said.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress

MTU = 65000
QUEUE_S = 0.02
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKETS_KEPT = 64  # by the device, while this process is busy


def laid(names: tuple[str, str], cables: tuple[str, str], bits_per_s: float, delay_s: float) -> subprocess.Popen[bytes]:
    """The process that is the cable between the namespaces; its ends are the devices `cables`, still down. It ends with its stdin.

    OSError: there is no /dev/net/tun.
    """
    ends = [_device(cable) for cable in cables]
    try:
        for name, cable in zip(names, cables):
            ip("link", "set", cable, "mtu", str(MTU), "txqueuelen", str(_PACKETS_KEPT), "netns", name)
        command = [sys.executable, __file__, *map(str, ends), str(bits_per_s), str(delay_s)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=ends)
    finally:
        for end in ends:
            os.close(end)


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, timeout=30)


def _device(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


# -- the process -------------------------------------------------------------------------------------------------------


class Way:
    """One of the two directions."""

    def __init__(self, source: int, sink: int):
        self.source, self.sink = source, sink
        self.free_at = 0.0  # when all that has been taken has left
        self.travelling: deque[tuple[float, bytes]] = deque()  # when it arrives, and what

    def take(self, bits_per_s: float, delay_s: float) -> None:
        with suppress(BlockingIOError):
            while True:
                packet = os.read(self.source, 1 << 16)
                now = time.monotonic()
                if self.free_at > now + QUEUE_S:
                    continue
                self.free_at = max(self.free_at, now) + 8 * len(packet) / bits_per_s
                self.travelling.append((self.free_at + delay_s, packet))

    def deliver(self) -> None:
        while self.travelling and self.travelling[0][0] <= time.monotonic():
            with suppress(OSError):  # the other end is down: the cable is cut
                os.write(self.sink, self.travelling[0][1])
            self.travelling.popleft()

    def wait_s(self) -> float:
        return max(0.0, self.travelling[0][0] - time.monotonic()) if self.travelling else 1.0


def forward(one: int, other: int, bits_per_s: float, delay_s: float) -> None:
    """Until standard input ends."""
    ways = {one: Way(one, other), other: Way(other, one)}
    while True:
        ready, _, _ = select.select([0, *ways], [], [], min(way.wait_s() for way in ways.values()))
        if 0 in ready:
            return
        for source in ready:
            ways[source].take(bits_per_s, delay_s)
        for way in ways.values():
            way.deliver()


if __name__ == "__main__":
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # as a cable it has nothing to do with what the cores are busy with
    forward(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
