"""The notice board of the ranks of one host: a piece of memory that all of them see, and who may touch what, when.

Contract
- A rank *pins* something up for some readers: it claims one of its SLOTS slots, writes into it, and posts it. Each
  reader looks, reads in place, and says that it is done. A slot is claimed again only when all its readers are done.
- From one writer to one reader notes come in order and none is lost. There are no locks: a word has one
  writer, or two that take turns.
- A rank that is about to sleep lies down first and says for whom it waits; when that one posts to it or is done with
  its slot, it rings the bell.
- A rank also has BLOCKS blocks, which carry one large message to one peer each, until that peer frees the block.
- Generations (`advance`): notes of another generation are not seen. What was pinned up before may still be being read,
  so two ranks that meet for the first time in a generation must exchange an empty note first (`strangers`).

Memory order: a reader sees what was written before the post because x86-64 makes stores visible in order and
neither moves loads before loads nor stores before loads. Other processors promise less, and Python has no fences, so
`MACHINES` lists where a board may be used. The one case in which x86-64 lets a load pass a store (lying down against
posting) can cost a bell, never a note; sleepers wake by themselves every NAP_S.

Layout, in lines of 64 bytes, so that no two ranks write to one line, n ranks:
    n lines      for whom is this rank asleep? its number + 1, or 0 if it is awake
    n × n lines  [reader][writer] the last NOTES posts: generation << 43 | number << 4 | slot
    n × n lines  [writer][reader] with how many of them the reader is done: generation << 43 | number
    n lines      [owner] its blocks: the receiver's number + 1, or 0 if free
    n × SLOTS lines  [writer][slot] the mark of what is pinned there
    then, on page boundaries, n × SLOTS slots of slot_bytes and n × BLOCKS blocks of BLOCK_BYTES

Not here: where the memory comes from (`segment`), what is computed (`shared`), how long to wait (`same_host`).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

MACHINES = ("x86_64", "AMD64")
SLOTS = 3
BLOCKS = 4
BLOCK_BYTES = 1 << 20
NOTES = 8  # posts to one reader that may be unread at a time: a line of words
NAP_S = 0.01
VIEWS = 1024  # arrays of slots that are kept, since NumPy takes longer to make one than to find it

_WORDS = 8  # of 8 bytes in a line
_PAGE = 4096
_GENERATION_SHIFT = 43
_GENERATIONS = 1 << 19


class Layout(NamedTuple):
    """Where things are, for `size` ranks: words from the start for the words, bytes for the slots and blocks."""

    size: int
    slot_bytes: int

    @property
    def posts(self) -> int:
        return self.size * _WORDS

    @property
    def dones(self) -> int:
        return self.posts + self.size * self.size * _WORDS

    @property
    def owners(self) -> int:
        return self.dones + self.size * self.size * _WORDS

    @property
    def marks(self) -> int:
        return self.owners + self.size * _WORDS

    @property
    def slots(self) -> int:
        return _pages(8 * (self.marks + self.size * SLOTS * _WORDS))

    @property
    def blocks(self) -> int:
        return self.slots + self.size * SLOTS * _pages(self.slot_bytes)

    @property
    def nbytes(self) -> int:
        return self.blocks + self.size * BLOCKS * BLOCK_BYTES


def _pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def _table(start: int, size: int, stride: int) -> list[list[int]]:
    """[rank][slot]: where each rank's slots, or what belongs to them, begin."""
    return [[start + (rank * SLOTS + slot) * stride for slot in range(SLOTS)] for rank in range(size)]


class Board:
    """The board as rank `me` of `layout.size` sees it. `bells[i]` is the eventfd that wakes rank i."""

    def __init__(self, memory, bells: Collection[int], layout: Layout, me: int):
        size = layout.size
        self.me, self.size, self.layout = me, size, layout
        self.bells = tuple(bells)
        self._words = memoryview(memory).cast("B")[: layout.slots].cast("q")
        self._bytes = np.frombuffer(memory, np.uint8)
        self._views: dict[tuple[int, int, np.dtype], np.ndarray] = {}
        self._era = 0  # the generation, as it stands in a word
        self._turn = 0  # the slot to be claimed next
        self._sent = [0] * size
        self._read = [0] * size
        self._readers: list[dict[int, int]] = [{} for _ in range(SLOTS)]  # reader -> number of its post of this slot
        self.strangers: set[int] = set()  # not met in this generation
        self._posts_to = [layout.posts + (reader * size + me) * _WORDS for reader in range(size)]
        self._posts_from = [layout.posts + (me * size + writer) * _WORDS for writer in range(size)]
        self._dones_to = [layout.dones + (writer * size + me) * _WORDS for writer in range(size)]
        self._dones_from = [layout.dones + (me * size + reader) * _WORDS for reader in range(size)]
        self._owners = [layout.owners + rank * _WORDS for rank in range(size)]
        self._blocks = [layout.blocks + rank * BLOCKS * BLOCK_BYTES for rank in range(size)]
        self._marks = _table(layout.marks, size, _WORDS)
        self._slots = _table(layout.slots, size, _pages(layout.slot_bytes))

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._views.clear()
        del self._bytes

    def advance(self, generation: int) -> None:
        """Forget all notes, and who is asleep or done. The other ranks are strangers until they say the same."""
        self._era = (generation % _GENERATIONS) << _GENERATION_SHIFT
        self._sent = [0] * self.size
        self._read = [0] * self.size
        self._readers = [{} for _ in range(SLOTS)]
        self._slots = _table(self.layout.slots, self.size, _pages(self.layout.slot_bytes))
        self.strangers = set(range(self.size)) - {self.me}

    # -- writing ------------------------------------------------------------------------------------------------------

    def busy(self, readers: Collection[int]) -> int | None:
        """Somebody who has yet to finish with the next slot, or to read what was posted before; None if nobody."""
        words, era = self._words, self._era
        for reader, number in self._readers[self._turn].items():
            if words[self._dones_from[reader]] < era + number:
                return reader
        for reader in readers:
            if self._sent[reader] >= NOTES:
                if words[self._dones_from[reader]] < era + self._sent[reader] + 1 - NOTES:
                    return reader
        return None

    def claim(self) -> int:
        """The next slot, to be written; only after `busy` said that nobody reads it."""
        slot = self._turn
        self._turn = (slot + 1) % SLOTS
        self._readers[slot].clear()
        return slot

    def post(self, slot: int, readers: Collection[int], mark: int = 0) -> None:
        """Show a slot to readers. A slot may be posted again while it is claimed."""
        words, readers_of, era = self._words, self._readers[slot], self._era
        words[self._marks[self.me][slot]] = mark
        for reader in readers:
            number = self._sent[reader] = self._sent[reader] + 1
            readers_of[reader] = number
            words[self._posts_to[reader] + number % NOTES] = era | number << 4 | slot
            if words[reader * _WORDS] == self.me + 1:
                self.ring(reader)

    # -- reading ------------------------------------------------------------------------------------------------------

    def look(self, writer: int) -> int | None:
        """The slot of the writer's next note, if it is there."""
        number = self._read[writer] + 1
        word = self._words[self._posts_from[writer] + number % NOTES]
        return word & 15 if word >> 4 == (self._era >> 4) + number else None

    def mark(self, writer: int, slot: int) -> int:
        return self._words[self._marks[writer][slot]]

    def done(self, writer: int) -> None:
        """The note that `look` found has been read; on to the next."""
        number = self._read[writer] = self._read[writer] + 1
        self._words[self._dones_to[writer]] = self._era + number
        if self._words[writer * _WORDS] == self.me + 1:
            self.ring(writer)

    def array(self, rank: int, slot: int, span: slice, dtype: np.dtype) -> np.ndarray:
        """The elements `span` of a slot seen as an array of a dtype, 1-D."""
        start = self._slots[rank][slot] + span.start * dtype.itemsize
        key = start, span.stop - span.start, dtype
        view = self._views.get(key)
        if view is None:
            if len(self._views) == VIEWS:
                self._views.clear()
            view = self._bytes[start : start + key[1] * dtype.itemsize].view(dtype)
            self._views[key] = view
        return view

    def swap(self, slot: int, theirs: int) -> None:
        """Two ranks that showed each other a slot exchange the memory of the two, if nobody else is on the board.

        Each does it when it is done with the other's; its own, under the new address, stays busy while the other reads.

        Who writes next where it has read takes a line from the other's cache with all that it needs; a line that the other has only read
        would first have to be thrown out there, one at a time: 64 KB take 12 us then instead of 5.
        """
        mine, other = self._slots[self.me], self._slots[1 - self.me]
        mine[slot], other[theirs] = other[theirs], mine[slot]

    # -- sleeping -----------------------------------------------------------------------------------------------------

    def lie_down(self, other: int) -> None:
        """From here on the bell rings when this other rank posts or is done. Look again before sleeping."""
        self._words[self.me * _WORDS] = other + 1

    def get_up(self) -> None:
        self._words[self.me * _WORDS] = 0

    def ring(self, rank: int) -> None:
        try:
            os.eventfd_write(self.bells[rank], 1)
        except BlockingIOError:  # rung 2**64 times: it is awake enough
            pass

    def hush(self) -> None:
        """The bell was heard."""
        try:
            os.eventfd_read(self.bells[self.me])
        except BlockingIOError:
            pass

    # -- blocks -------------------------------------------------------------------------------------------------------

    def has_block(self, gone: Collection[int]) -> bool:
        return any(self._is_free(block, gone) for block in range(BLOCKS))

    def lend(self, data: np.ndarray, peer: int, gone: Collection[int]) -> int | None:
        """Copy up to BLOCK_BYTES into a free block for `peer`: its number, or None if none is free.

        A block is free too if whom it was for is gone.
        """
        for block in range(BLOCKS):
            if self._is_free(block, gone):
                start = self._blocks[self.me] + block * BLOCK_BYTES
                self._bytes[start : start + data.nbytes] = data.view(np.uint8)
                self._words[self._owners[self.me] + block] = peer + 1
                return block
        return None

    def take(self, sender: int, block: int, nbytes: int) -> np.ndarray:
        """A copy of the bytes that a peer lent us; frees the block."""
        start = self._blocks[sender] + block * BLOCK_BYTES
        copy = self._bytes[start : start + nbytes].copy()
        self._words[self._owners[sender] + block] = 0
        return copy

    def _is_free(self, block: int, gone: Collection[int]) -> bool:
        owner = self._words[self._owners[self.me] + block]
        return owner == 0 or owner - 1 in gone
