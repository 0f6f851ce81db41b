"""An event loop in a thread of its own, and how methods of asynchronous objects become blocking ones on it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from lepton.client.listing import Listing

P = ParamSpec("P")
R = TypeVar("R")
G = TypeVar("G")


class LoopThread:
    """Runs coroutines for threads that have no loop; each is cancelled when its thread stops waiting."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lepton-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """The coroutine's outcome."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C here; nothing when it is the coroutine's own error
            raise

    def iterate(self, items: AsyncGenerator[R, None]) -> Generator[R, None, None]:
        """The items; the stream is closed with the iterator."""
        try:
            while True:
                try:
                    item = self.run(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self.run(items.aclose())

    def close(self) -> None:
        """End the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Facade(Generic[G]):
    """A group of asynchronous methods, for callers that block."""

    def __init__(self, loop: LoopThread, group: G) -> None:
        self._loop, self._group = loop, group


class BlockingListing(Generic[R]):
    """A list of resources: `for each in listing`, or `listing.all()`."""

    def __init__(self, loop: LoopThread, listing: Listing[R]) -> None:
        self._loop, self._listing = loop, listing

    def __iter__(self) -> Iterator[R]:
        return self._loop.iterate(aiter(self._listing))

    def all(self) -> list[R]:
        """All of them."""
        return self._loop.run(self._listing.all())


def waits(method: Callable[Concatenate[G, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Facade[G], P], R]:
    """The method, which returns when it is done."""

    def call(self: Facade[G], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(method(self._group, *args, **kwargs))

    call.__doc__, call.__name__ = method.__doc__, getattr(method, "__name__", "call")
    return call


def iterates(
    method: Callable[Concatenate[G, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[Facade[G], P], Generator[R, None, None]]:
    """The method, whose stream is an ordinary iterator."""

    def call(self: Facade[G], /, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        return self._loop.iterate(method(self._group, *args, **kwargs))

    call.__doc__, call.__name__ = method.__doc__, getattr(method, "__name__", "call")
    return call


def lists(
    method: Callable[Concatenate[G, P], Listing[R]],
) -> Callable[Concatenate[Facade[G], P], BlockingListing[R]]:
    """The method, whose list is an ordinary iterable."""

    def call(self: Facade[G], /, *args: P.args, **kwargs: P.kwargs) -> BlockingListing[R]:
        return BlockingListing(self._loop, method(self._group, *args, **kwargs))

    call.__doc__, call.__name__ = method.__doc__, getattr(method, "__name__", "call")
    return call


async def _next(items: AsyncGenerator[R, None]) -> R:
    return await anext(items)
