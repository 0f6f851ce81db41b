"""Watches that go on: over broken streams from where they stood, and over lost history from a fresh state."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lepton.client.calls import Calls, Stream
from lepton.errors import DeadlineExceeded, OutOfRange
from lepton.names import not_found

_DELETED, _BOOKMARK = 2, 3  # of every Watch response's Event


class Named(Protocol):
    """A resource."""

    name: str


T = TypeVar("T", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[T]):
    """A resource that exists or has changed; of one that is gone only the name is set."""

    resource: T
    is_deleted: bool
    revision: int
    """To watch from, later: everything after it is sent then."""


class Watch(Generic[T]):
    """One watch: remembers how far it came, what it has told, and what exists."""

    def __init__(
        self,
        calls: Calls,
        kind: type[T],
        start: Callable[[int], Stream[Any]],
        revision: int = 0,
        known: Iterable[T] = (),
    ) -> None:
        self._calls, self._kind, self._start = calls, kind, start
        self._field = re.sub("(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
        self._position = revision
        self._existing = {each.name: each for each in known}  # told to the caller, by this watch or before it
        self._listed: set[str] | None = None  # while the initial state comes in
        self._told: set[tuple[str, int]] = set()  # since the position, for a stream that begins there again

    async def changes(self) -> AsyncGenerator[Change[T], None]:
        """What there is, then every change, once each, for ever."""
        while True:
            try:
                async with aclosing(self._calls.stream(self._begin, endless=True)) as messages:
                    async for message in messages:
                        for change in self._take(message):
                            yield change
            except OutOfRange as error:
                if error.reason != "REVISION_COMPACTED" or self._position == 0:
                    raise
                self._position = 0  # that history is gone: take the state as it is now, and tell what differs

    def _begin(self) -> Stream[Any]:
        if self._position == 0:
            self._listed = set()
        return self._start(self._position)

    def _take(self, message: Any) -> list[Change[T]]:
        if message.event == _BOOKMARK:
            return self._bookmark(message.revision)
        resource: T = getattr(message, self._field)
        name, gone, told = resource.name, message.event == _DELETED, (resource.name, message.revision)
        is_known = told in self._told
        if self._listed is not None:
            self._listed.add(name)
            is_known = is_known or self._existing.get(name) == resource
        self._told.add(told)
        if gone:
            self._existing.pop(name, None)
        else:
            self._existing[name] = resource
        # The initial state's own revisions are nothing to go on from: others of it may not have come yet.
        revision = self._position if self._listed is not None else message.revision
        return [] if is_known else [Change(resource=resource, is_deleted=gone, revision=revision)]

    def _bookmark(self, revision: int) -> list[Change[T]]:
        vanished = sorted(set(self._existing) - self._listed) if self._listed is not None else []
        self._position, self._listed = revision, None
        self._told.clear()
        for name in vanished:
            del self._existing[name]
        make: Any = self._kind
        return [Change(resource=make(name=name), is_deleted=True, revision=revision) for name in vanished]


async def awaited(
    name: str,
    get: Callable[[], Awaitable[T]],
    watch: Callable[[T], Watch[T]],
    is_reached: Callable[[T], bool],
    timeout_s: float | None,
) -> T:
    """The resource as soon as it is as wished. NotFound when it is or goes away, DeadlineExceeded when time is up."""
    last: T | None = None
    try:
        async with asyncio.timeout(timeout_s):
            last = await get()
            if is_reached(last):
                return last
            async with aclosing(watch(last).changes()) as changes:
                async for change in changes:
                    if change.resource.name != name:
                        continue
                    if change.is_deleted:
                        raise not_found(name)
                    last = change.resource
                    if is_reached(last):
                        return last
    except TimeoutError:
        raise DeadlineExceeded("WAIT_TIMED_OUT", name=name, state=_state(last)) from None
    raise AssertionError("a watch has no end")


def in_states(states: int | Collection[int]) -> frozenset[int]:
    """The states meant by one or by several."""
    return frozenset((states,)) if isinstance(states, int) else frozenset(states)


def _state(resource: Any) -> str:
    if resource is None:
        return "unknown"
    field = resource.DESCRIPTOR.fields_by_name["state"]
    return str(field.enum_type.values_by_number[resource.state].name)
