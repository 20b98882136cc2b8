"""A reader of pickles that only moves data.

A pickle is a program for a stack machine. This machine knows the opcodes that put values on the stack and into
containers; the opcodes that would import and call (GLOBAL, REDUCE, NEWOBJ, BUILD) ask the `World`, whose answers come
from a closed table. So what a file can do is what the table does, whatever the program says. Python's own unpickler
would import any name, call any value on the stack, and allocate what the file asks for; it is not used.
Contract: any malformed program is a CheckpointError, with the byte it stopped at. Not here: what names mean.
Source: PEP 307, PEP 3154, PEP 574 and the comments of CPython's Lib/pickletools.py (opcodes).
"""

from __future__ import annotations

import collections
import pickle
import struct
from collections.abc import Callable
from typing import Any, Protocol

from core.errors import CheckpointError, CoreError

MAX_DEPTH = (
    500  # of containers in containers: printing or copying what was loaded stays within Python's recursion limit
)
_MAX_KEY = 1000  # parts of one dictionary key: hashing it is recursive and not cached


class Named:
    """What a name in the file stands for, if not a value: something that may be called, or only be mentioned."""

    __slots__ = ("name", "call", "new")

    def __init__(self, name: str, call: Callable[..., Any] | None = None, new: Callable[..., Any] | None = None):
        self.name, self.call, self.new = name, call, new

    def __repr__(self) -> str:
        return f"the class or function {self.name}"


class World(Protocol):
    """What the machine asks for."""

    def find(self, module: str, name: str) -> Any:
        """What a name stands for: a Named or a value."""

    def callable(self, value: Any) -> Named | None:
        """How a value, which is a class or function that may be called, is called. None: it is none."""

    def persistent(self, identity: Any) -> Any:
        """The value outside of the pickle that this identity refers to."""

    def build(self, value: Any, state: Any) -> None:
        """Give a value, made by a Named, its state."""

    def inside(self, value: Any) -> Any:
        """Values inside one that is no built-in container; an error if it is no data."""


class _Malformed(Exception):
    pass


class Machine:
    """Runs one pickle that begins at `data[position]`; afterwards `position` is behind it."""

    def __init__(self, data: bytes, world: World, where: str, position: int = 0, encoding: str = "utf-8"):
        self.data, self.world, self.where, self.position, self.encoding = data, world, where, position, encoding
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what was on the stack at each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value."""
        try:
            while True:
                code = self.take(1)
                if code == pickle.STOP:
                    break
                rule = OPCODES.get(code)
                if rule is None:
                    raise _Malformed(f"opcode {code!r}, which no file of save or torch.save has")
                rule(self)
            if len(self.stack) != 1 or self.below:
                raise _Malformed(f"{len(self.stack)} values at its end")
            value = self.stack.pop()
            self._check(value)
            return value
        except CheckpointError as e:
            raise CheckpointError(f"{self.where}: {e}") from e
        except CoreError:
            raise  # the caller's mistake, in map_location
        except _Malformed as e:
            problem = str(e)
        except (
            IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, struct.error, RecursionError, MemoryError,
        ) as e:  # fmt: skip
            problem = f"{type(e).__name__}: {e}"
        raise CheckpointError(
            f"{self.where}: expected a well-formed pickle, got {problem} (byte {self.position}); take another copy"
        )

    # -- bytes in

    def take(self, n: int) -> bytes:
        piece = self.data[self.position : self.position + n]
        if len(piece) != n:
            raise _Malformed(f"its end where {n} more bytes belong")
        self.position += n
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def sized(self, form: str) -> bytes:
        return self.take(self.number(form))

    def line(self) -> str:
        end = self.data.index(b"\n", self.position, self.position + 1000)
        text = self.data[self.position : end].decode()
        self.position = end + 1
        return text

    # -- the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def pack(self, n: int) -> None:
        items = tuple(self.stack[len(self.stack) - n :])
        if len(items) != n:
            raise IndexError("too few values")
        del self.stack[len(self.stack) - n :]
        self.stack.append(items)

    # -- containers

    def append(self, items: list[Any]) -> None:
        self._target(list, "list").extend(items)

    def add(self, items: list[Any]) -> None:
        self._target(set, "set").update(map(key, items))

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise _Malformed("a key without a value")
        target = self._target(dict, "dict")
        for k, v in zip(items[::2], items[1::2]):
            target[key(k)] = v

    def _target(self, kind: type, name: str) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise _Malformed(f"items for {brief(self.stack[-1])}, not a {name}")
        return self.stack[-1]

    def pop_two(self) -> list[Any]:
        items = self.stack[-2:]
        del self.stack[-2:]
        return items

    # -- what would run code

    def call(self, way: str) -> None:
        args, named = self.stack.pop(), self.stack.pop()
        if type(named) is not Named:
            named = self.world.callable(named) or named
        if type(named) is not Named or type(args) is not tuple:
            raise _Malformed(f"a call of {brief(named)} with {brief(args)}")
        function = getattr(named, way)
        if function is None:
            raise _Malformed(f"a call of {named}, which is only to be mentioned")
        self.stack.append(function(*args))

    def build(self) -> None:
        state = self.stack.pop()
        self.world.build(self.stack[-1], state)

    def stack_global(self) -> None:
        module, name = self.pop_two()
        if type(module) is not str or type(name) is not str:
            raise _Malformed("a name that is no string")
        self.stack.append(self.world.find(module, name))

    # -- the end

    def _check(self, value: Any) -> None:
        """All that can be reached is data, and nothing is nested deeper than it can be printed."""
        seen: set[int] = set()
        level, depth = [value], 0
        while level:
            depth += 1
            if depth > MAX_DEPTH:
                raise _Malformed(f"containers nested deeper than {MAX_DEPTH}")
            deeper: list[Any] = []
            for v in level:
                if type(v) in _ATOMS or id(v) in seen:
                    continue
                seen.add(id(v))
                if isinstance(v, dict):
                    deeper += v.values()
                elif isinstance(v, (list, tuple)):
                    deeper += v
                if type(v) is Named:
                    raise _Malformed(f"{v} where data belongs")
                if type(v) not in _PLAIN:
                    deeper += self.world.inside(v)
            level = deeper


_ATOMS = frozenset((str, int, float, bool, type(None), bytes, complex, bytearray))
_PLAIN = frozenset((dict, list, tuple, set, frozenset, collections.OrderedDict))


def key(value: Any) -> Any:
    """The value, if it is small and plain enough to be hashed without harm."""
    parts, todo = 0, [value]
    while todo:
        v = todo.pop()
        parts += 1
        if parts > _MAX_KEY:
            raise _Malformed(f"a dictionary key of more than {_MAX_KEY} parts")
        if isinstance(v, (tuple, frozenset)):
            todo += v
        elif type(v) is Named or isinstance(v, (list, dict, set, bytearray)):
            raise _Malformed(f"{brief(v)} as a dictionary key")
    return value


def brief(value: Any, depth: int = 2) -> str:
    """A value of a file for an error: short, whatever it is. repr() of tuples that hold each other twice has no end."""
    if isinstance(value, (tuple, list)) and depth:
        return "(" + ", ".join(brief(v, depth - 1) for v in value[:8]) + (", ...)" if len(value) > 8 else ")")
    if isinstance(value, (tuple, list, dict, set, frozenset, bytes)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (str, int, float, Named, type(None))):
        return repr(value[:100] if isinstance(value, str) else value)
    return f"a {type(value).__name__}"


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


# opcode -> rule
OPCODES: dict[bytes, Callable[[Machine], Any]] = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    # atoms
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number("i")),
    pickle.BININT1: lambda m: m.push(m.number("B")),
    pickle.BININT2: lambda m: m.push(m.number("H")),
    pickle.LONG1: lambda m: m.push(_signed(m.sized("B"))),
    pickle.LONG4: lambda m: m.push(_signed(m.sized("I"))),
    pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    pickle.SHORT_BINSTRING: lambda m: m.push(m.sized("B").decode(m.encoding)),
    pickle.BINSTRING: lambda m: m.push(m.sized("I").decode(m.encoding)),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.sized("B").decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE: lambda m: m.push(m.sized("I").decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE8: lambda m: m.push(m.sized("Q").decode("utf-8", "surrogatepass")),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.sized("B")),
    pickle.BINBYTES: lambda m: m.push(m.sized("I")),
    pickle.BINBYTES8: lambda m: m.push(m.sized("Q")),
    pickle.BYTEARRAY8: lambda m: m.push(bytearray(m.sized("Q"))),
    # containers
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.EMPTY_SET: lambda m: m.push(set()),
    pickle.TUPLE1: lambda m: m.pack(1),
    pickle.TUPLE2: lambda m: m.pack(2),
    pickle.TUPLE3: lambda m: m.pack(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_mark())),
    pickle.FROZENSET: lambda m: m.push(frozenset(map(key, m.pop_mark()))),
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_mark()),
    pickle.ADDITEMS: lambda m: m.add(m.pop_mark()),
    pickle.SETITEM: lambda m: m.set_items(m.pop_two()),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    # the stack and the memo
    pickle.MARK: Machine.mark,
    pickle.POP: lambda m: m.stack.pop(),
    pickle.POP_MARK: lambda m: m.pop_mark(),
    pickle.DUP: lambda m: m.push(m.stack[-1]),
    pickle.BINPUT: lambda m: m.put(m.number("B")),
    pickle.LONG_BINPUT: lambda m: m.put(m.number("I")),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.BINGET: lambda m: m.push(m.memo[m.number("B")]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number("I")]),
    # by the table
    pickle.GLOBAL: lambda m: m.push(m.world.find(m.line(), m.line())),
    pickle.STACK_GLOBAL: Machine.stack_global,
    pickle.BINPERSID: lambda m: m.push(m.world.persistent(m.stack.pop())),
    pickle.REDUCE: lambda m: m.call("call"),
    pickle.NEWOBJ: lambda m: m.call("new"),
    pickle.BUILD: Machine.build,
}
