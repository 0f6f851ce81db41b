"""The resources of all kinds in memory, with their history."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from lepton.errors import Aborted, AlreadyExists, OutOfRange
from lepton.names import not_found


@dataclass
class Log:
    """The one revision that all tables share, and a bell that rings at every change."""

    revision: int = 1
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        self.revision += 1
        self.bell.set()
        self.bell = asyncio.Event()


class Table:
    """The resources of one kind, with their history."""

    def __init__(self, log: Log, kind: Any) -> None:
        self.log, self.kind = log, kind
        self.rows: dict[str, Any] = {}
        self.history: list[tuple[int, str, Any]] = []
        self.compacted = 0

    def put(self, resource: Any) -> Any:
        resource.etag = f'"{self.log.revision + 1}"'
        self.rows[resource.name] = self._copy(resource)
        self.history.append((self.log.revision + 1, resource.name, self._copy(resource)))
        self.log.ring()
        return self._copy(resource)

    def change(self, name: str, **fields: Any) -> Any:
        resource = self.get(name)
        for key, value in fields.items():
            if isinstance(value, dict):
                getattr(resource, key).update(value)
            elif isinstance(value, list):
                del getattr(resource, key)[:]
                getattr(resource, key).extend(value)
            elif hasattr(value, "CopyFrom"):
                getattr(resource, key).CopyFrom(value)
            else:
                setattr(resource, key, value)
        return self.put(resource)

    def get(self, name: str) -> Any:
        if name not in self.rows:
            raise not_found(name)
        return self._copy(self.rows[name])

    def add(self, resource: Any) -> Any:
        if resource.name in self.rows:
            kind = self.kind.__name__.upper()
            raise AlreadyExists(f"{kind}_ALREADY_EXISTS", **{kind.lower(): resource.name})
        if "uid" in resource.DESCRIPTOR.fields_by_name:
            resource.uid = uuid.uuid4().hex
        return self.put(resource)

    def remove(self, name: str) -> Any:
        resource = self.get(name)
        del self.rows[name]
        self.history.append((self.log.revision + 1, name, None))
        self.log.ring()
        return resource

    def compact(self) -> None:
        """Forget the history so far."""
        self.compacted = self.log.revision
        self.history.clear()

    def page(self, prefix: str, request: Any, items: str) -> dict[str, Any]:
        found = sorted(name for name in self.rows if name.startswith(prefix) and name > request.page_token)
        size = request.page_size or 2
        more = found[size - 1] if len(found) > size else ""
        return {items: [self.rows[name] for name in found[:size]], "next_page_token": more}

    async def watch(self, prefix: str, revision: int, only: str = "") -> AsyncIterator[tuple[int, int, Any]]:
        """(event, revision, resource) as the services send them."""

        def chosen(name: str) -> bool:
            return name.startswith(prefix) and only in ("", name)

        position = revision
        if revision == 0:
            position = self.log.revision
            for at, resource in [(self._changed(name), row) for name, row in self.rows.items() if chosen(name)]:
                yield 1, at, self._copy(resource)
            yield 3, position, None
        while True:
            if position < self.compacted:
                raise OutOfRange("REVISION_COMPACTED", revision=str(position))
            bell = self.log.bell
            for at, name, resource in list(self.history):
                if at > position and chosen(name):
                    yield (1, at, self._copy(resource)) if resource else (2, at, self.kind(name=name))
            position = self.log.revision
            yield 3, position, None
            await bell.wait()

    def _changed(self, name: str) -> int:
        return max((at for at, each, _ in self.history if each == name), default=1)

    @staticmethod
    def _copy(resource: Any) -> Any:
        copy = type(resource)()
        copy.CopyFrom(resource)
        return copy


def updated(table: Table, wanted: Any, paths: Any) -> Any:
    """The resource with the fields of the mask as they are wanted."""
    resource = table.get(wanted.name)
    if wanted.etag not in ("", resource.etag):
        raise Aborted("ETAG_MISMATCH", name=wanted.name)
    for each, _ in wanted.ListFields():
        if each.name not in paths:
            wanted.ClearField(each.name)
    for path in paths:
        resource.ClearField(path)
    resource.MergeFrom(wanted)
    return table.put(resource)
