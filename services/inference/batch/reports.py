"""The reports of a batch prediction's shards, as they come into the artifact store."""

import asyncio
from collections.abc import Mapping

from chassis.artifacts import ArtifactStore
from chassis.logs import logger
from lepton.errors import LeptonError
from services.inference.batch.documents import Plan, ShardReport

log = logger(__name__)


class Reports:
    """Reads each report once; one that does not fit its plan is left out."""

    def __init__(self, artifacts: ArtifactStore, project: str, area: str, plan: Plan) -> None:
        self._artifacts, self._project, self._area, self.plan = artifacts, project, area, plan
        self._read: set[str] = set()
        self._known: dict[int, tuple[str, ShardReport]] = {}

    async def known(self) -> Mapping[int, ShardReport]:
        """The report of every shard that is done, by its index."""
        listed = await self._artifacts.listing(self._project, area=self._area)
        fresh = sorted({str(digest) for digest, _ in listed} - self._read)
        for start in range(0, len(fresh), 64):
            await asyncio.gather(*(self._take(digest) for digest in fresh[start : start + 64]))
        return {index: report for index, (_, report) in self._known.items()}

    async def _take(self, digest: str) -> None:
        try:
            report = ShardReport.parse(await self._artifacts.read(self._project, digest))
        except LeptonError as error:
            log.warning("report left aside", report=digest, problem=str(error))
            return
        self._read.add(digest)
        if not 0 <= report.shard < len(self.plan.shards):
            return
        shard = self.plan.shards[report.shard]
        if (report.start, report.rows) != (shard.start, shard.rows):
            return
        # The same shard may have been run twice, and a model need not answer the same to the bit: the choice is total.
        other = self._known.get(report.shard)
        if other is None or digest < other[0]:
            self._known[report.shard] = digest, report


async def clear(artifacts: ArtifactStore, project: str, area: str) -> None:
    """Removes the entries of an area; the reports that they name stay as artifacts."""
    listed = await artifacts.listing(project, area=area)
    await artifacts.remove([each for _, each in listed], older_than=float("inf"))
