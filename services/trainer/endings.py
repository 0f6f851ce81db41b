"""When a job's output is complete: the job has ended, and its ranks' last lines are here."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from chassis.kv import KV, follow
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.journal import Journal
from services.trainer.lifecycle import ENDED
from services.trainer.store import job_key

_LAST_WORDS_S: Final = 3.0
"""Agents deliver a rank's lines before they report its end, but a failure they report after 2 s in any case."""


class Endings:
    """Waits for the ends of jobs."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    async def of(self, job: Job, journal: Journal) -> None:
        """Returns once nothing more is to come."""
        last = await self._over(job)
        if last is not None and last.state == Job.FAILED:
            await _last_words(last, journal)

    async def _over(self, job: Job) -> Job | None:
        """The job once it has ended; None when it was deleted."""
        key = job_key(JobName.parse(job.name))
        current: Job | None = None
        async with aclosing(follow(self._kv, key)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.key == key:
                        current = None if event.entry is None else Job.FromString(event.entry.value)
                if current is None or current.uid != job.uid:
                    return None
                if current.state in ENDED:
                    return current
        raise AssertionError("a follow has no end")


async def _last_words(job: Job, journal: Journal) -> None:
    since_s = (datetime.now(UTC) - job.end_time.ToDatetime(UTC)).total_seconds()
    try:
        async with asyncio.timeout(_LAST_WORDS_S - max(since_s, 0.0)):
            await journal.failure_told(job.generation)
    except TimeoutError:
        return
