"""Prepares what comes next in a thread of its own while this one computes, in the same order as without."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

From = TypeVar("From")
To = TypeVar("To")
_LOOK_S: Final = 0.2  # how soon the thread notices that nobody wants any more


def prefetch(items: Iterable[From], prepare: Callable[[From], To], *, depth: int = 2) -> "Prefetch[From, To]":
    """`prepare(item)` of every item in order, up to `depth` ahead of the one in hand; to be used in a `with`."""
    return Prefetch(items, prepare, depth=depth)


class _End:
    """The last thing in the queue: the error that ended it, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Prefetch(Generic[From, To]):
    """`prepare(item)` of every item, up to `depth` of them ahead. A context manager and an iterator.

    What `prepare` or the items raise is raised where it would have been without a thread.
    """

    def __init__(self, items: Iterable[From], prepare: Callable[[From], To], *, depth: int = 2) -> None:
        self._items, self._prepare = items, prepare
        self._ready: queue.Queue[To | _End] = queue.Queue(maxsize=depth)
        self._is_wanted = True
        self._thread = threading.Thread(target=self._work, name="lepton-prefetch", daemon=True)

    def __enter__(self) -> Iterator[To]:
        self._thread.start()
        return self._take()

    def __exit__(self, *_: object) -> None:
        self._is_wanted = False
        self._thread.join()

    def _take(self) -> Iterator[To]:
        while True:
            item = self._ready.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(self._prepare(item)):
                    return
        except BaseException as error:  # noqa: BLE001 (it is raised by the one who takes)
            self._put(_End(error))
            return
        self._put(_End())

    def _put(self, item: "To | _End") -> bool:
        while self._is_wanted:
            try:
                self._ready.put(item, timeout=_LOOK_S)
                return True
            except queue.Full:
                continue
        return False
