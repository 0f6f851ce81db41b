"""Watches of resources as clients see them: what there is, then every change, with revisions to resume from."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from chassis.kv import KV, Compacted, Entry, Event, Page, WatchBatch, list_all
from lepton.errors import OutOfRange


async def changes(kv: KV, prefix: str, revision: int) -> AsyncGenerator[WatchBatch, None]:
    """Everything under a prefix after `revision` (0: first everything as it is), for ever.

    The batch without events that follows the initial state is its bookmark; later ones say that nothing has happened.
    A client resumes from a bookmark, or from just below the revision of the last change it took after the first
    bookmark: the initial state comes in the order of keys, and one revision may change many of them.
    Raises OutOfRange (REVISION_COMPACTED) when history that far back is gone.
    """
    if revision == 0:
        page = await _present(kv, prefix)
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


async def _present(kv: KV, prefix: str) -> Page:
    while True:
        try:
            return await list_all(kv, prefix)
        except Compacted:  # history has overtaken the pages of this read; the next begins with the present
            continue


def _found(entry: Entry) -> Event:
    return Event(key=entry.key, entry=entry, revision=entry.mod_revision)
