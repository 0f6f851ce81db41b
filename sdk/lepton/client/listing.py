"""Lists that fetch their pages by themselves."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
Page = tuple[Sequence[T], str]


class Listing(Generic[T]):
    """A list of resources: `async for each in listing`, or `await listing.all()`; may be gone through again."""

    def __init__(self, fetch: Callable[[str], Awaitable[Page[T]]]) -> None:
        self._fetch = fetch

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        token = ""
        while True:
            items, token = await self._fetch(token)
            for item in items:
                yield item
            if not token:
                return

    async def all(self) -> list[T]:
        """All of them."""
        return [item async for item in self]
