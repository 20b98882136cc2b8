"""What a rank writes, made fit to stand beside the output of the others.

Contract: bytes in, bytes out, nothing opened; text need not be UTF-8. A line is shown whole, behind its rank's prefix.
A progress bar (text that ends in a carriage return) moves on a terminal, and elsewhere leaves only its last state.
"""

from __future__ import annotations

import re
from collections import deque

# A line longer than this is shown in pieces: a rank that never ends its line must not fill our memory.
LINE_LIMIT = 16 << 20

_COLOURS = (36, 33, 35, 32, 34, 31)  # of the terminal: cyan, yellow, magenta, green, blue, red
_ERASE = b"\x1b[K"  # the rest of the screen's line: a longer progress bar may have stood there
_ENDS = re.compile(rb"([\r\n])")


def prefix(rank: int, terminal: bool, colour: bool) -> bytes:
    """What stands before each line of a rank: `[0] `."""
    text = b"[%d]" % rank
    if colour:
        text = b"\x1b[%dm%s\x1b[0m" % (_COLOURS[rank % len(_COLOURS)], text)
    return (_ERASE if terminal else b"") + text + b" "


class Lines:
    """One stream of one rank. `last` keeps the ends of its last lines, for the report of a failure."""

    def __init__(self, prefix: bytes, terminal: bool):
        self.last: deque[bytes] = deque(maxlen=20)
        self._prefix = prefix
        self._terminal = terminal
        self._begun = bytearray()  # a line that has not ended yet
        self._bar = b""  # the last text that ended in a carriage return, until its line ends

    def feed(self, data: bytes) -> bytes:
        """What to show now."""
        *ended, rest = _ENDS.split(data)
        shown = []
        for text, end in zip(ended[::2], ended[1::2]):
            self._begun += text
            shown.append(self._end_line() if end == b"\n" else self._end_bar())
        self._begun += rest
        if len(self._begun) > LINE_LIMIT:
            shown.append(self._end_line())
        return b"".join(shown)

    def close(self) -> bytes:
        """The last line, if it has not been ended."""
        return self._end_line() if self._begun or self._bar else b""

    def _end_line(self) -> bytes:
        text = bytes(self._begun) or self._bar  # "50%\r\n" too is one line, whichever the system calls the end of it
        self._begun.clear()
        self._bar = b""
        self.last.append(text[-1000:])
        return self._prefix + text + b"\n"

    def _end_bar(self) -> bytes:
        text = bytes(self._begun)
        self._begun.clear()
        if not text:  # most bars begin with the carriage return: it ends nothing
            return b""
        self._bar = text.rstrip()  # a bar that clears itself with blanks leaves nothing
        return self._prefix + text + b"\r" if self._terminal else b""
