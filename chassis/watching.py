"""Watches of resources as clients see them: what there is, then every change, each with a revision to resume from."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from chassis.kv import KV, Compacted, Entry, Event, WatchBatch, list_all
from lepton.errors import OutOfRange


async def changes(kv: KV, prefix: str, revision: int) -> AsyncGenerator[WatchBatch, None]:
    """Everything under a prefix after `revision` (0: first everything as it is), for ever.

    The batch without events that follows the initial state is its bookmark; later ones say that nothing has happened.
    Raises OutOfRange (REVISION_COMPACTED) when history that far back is gone.
    """
    if revision == 0:
        page = await list_all(kv, prefix)
        revision = page.revision
        if page.entries:
            yield WatchBatch(events=tuple(map(_found, page.entries)), revision=revision)
        yield WatchBatch(events=(), revision=revision)
    try:
        async with aclosing(kv.watch(prefix, start_revision=revision + 1)) as batches:
            async for batch in batches:
                yield batch
    except Compacted as error:
        raise OutOfRange("REVISION_COMPACTED", revision=str(revision)) from error


def _found(entry: Entry) -> Event:
    return Event(key=entry.key, entry=entry, revision=entry.mod_revision)
