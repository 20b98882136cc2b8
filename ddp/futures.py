"""A value that will be there: torch.futures.

Contract: a callback runs once, with the future, in the thread that completes it, or at once if it is complete; callbacks
run in the order in which they were added. An error is a value, too: it passes through `then` and is raised by `wait`; one
in a callback of `add_done_callback` is printed.
Not here: who completes a future (`ddp.group.Work.get_future` is that of a collective call).
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from ddp.errors import DDPError

T = TypeVar("T")


class Future(Generic[T]):
    """A value to come."""

    def __init__(self, *, devices: Any = None):
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Future[T]], Any]] = []
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether there is a value or an error."""
        return self._done.is_set()

    def wait(self) -> T:
        """The value, once it is there; raises the error."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value

    def value(self) -> T:
        """The value of a future that is done."""
        if not self.done():
            raise DDPError("Future.value: expected a future that is done, got one that is not; call wait()")
        return self.wait()

    def then(self, callback: Callable[[Future[T]], Any]) -> Future[Any]:
        """What `callback(self)` returns, as a future."""
        after: Future[Any] = Future()

        def run(me: Future[T]) -> None:
            try:
                value = callback(me)
            except BaseException as e:
                after.set_exception(e)
            else:
                after.set_result(value)

        self.add_done_callback(run)
        return after

    def add_done_callback(self, callback: Callable[[Future[T]], Any]) -> None:
        """Run `callback(self)` when done."""
        with self._lock:
            if not self._done.is_set():
                self._callbacks.append(callback)
                return
        self._call(callback)

    def set_result(self, result: T) -> None:
        """Here is the value."""
        self._complete(result, None)

    def set_exception(self, result: BaseException) -> None:
        """There will be no value."""
        if not isinstance(result, BaseException):
            raise DDPError(f"Future.set_exception: expected an exception, got {type(result).__name__}")
        self._complete(None, result)

    def _complete(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            if self._done.is_set():
                raise DDPError("Future: expected a future that is not done, got one that has its value; set it once")
            self._value, self._error = value, error
            callbacks, self._callbacks = self._callbacks, []
            self._done.set()
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Future[T]], Any]) -> None:
        try:
            callback(self)
        except Exception:  # nobody waits for it, and the thread has other work; use `then` to get it back
            traceback.print_exc()


def collect_all(futures: Sequence[Future[Any]]) -> Future[list[Future[Any]]]:
    """A future of the futures, done when the last of them is."""
    together: Future[list[Future[Any]]] = Future()
    left, lock = len(futures), threading.Lock()

    def one(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = not left
        if last:
            together.set_result(list(futures))

    if not futures:
        together.set_result([])
    for future in futures:
        future.add_done_callback(one)
    return together


def wait_all(futures: Sequence[Future[Any]]) -> list[Any]:
    """The values; the first error in the order of the list is raised once all are done."""
    return [f.wait() for f in collect_all(futures).wait()]
