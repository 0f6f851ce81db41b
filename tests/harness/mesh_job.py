"""The recorded training program as a real job of a control plane: submitted, followed by its records, judged."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lepton.artifacts import ArtifactStore
from lepton.client import AsyncClient
from lepton.train import checkpoints
from lepton.trainer.v1.job_pb2 import CheckpointPolicy, CodeBundle, Job, Workers
from tests.harness.elastic_job import Plan, Told
from tests.harness.ranks import recorded
from tests.harness.sealed_store import sealed_store
from tests.harness.training_stack import PROJECT, TrainingStack
from tests.harness.wait import until


@dataclass(kw_only=True)
class MeshJob:
    """One job, and where its ranks keep their records."""

    client: AsyncClient
    stack: TrainingStack
    job_id: str
    plan: Plan
    records: Path

    @classmethod
    async def submit(
        cls, stack: TrainingStack, client: AsyncClient, job_id: str, plan: Plan, *, most: int = 0, **fields: Any
    ) -> Self:
        """Submits it with `plan.last` ranks, or up to `most`; every checkpoint is kept."""
        records = stack.home.root / "records" / job_id
        records.mkdir(parents=True)
        digest = (await client.artifacts.upload(_archive())).digest
        argv = ["--records", str(records), *plan.arguments]
        job = Job(
            bundle=CodeBundle(digest=digest, entry_point="recorded.py", argv=argv),
            workers=Workers(count=plan.last, max_count=most),
            checkpoint_policy=CheckpointPolicy(keep_latest=100_000),
            **{"max_restarts": 100, **fields},
        )
        await client.jobs.create(job_id, job)
        return cls(client=client, stack=stack, job_id=job_id, plan=plan, records=records)

    def steps(self, generation: int = 0) -> int:
        """Steps that rank 0 has made, of all generations or one."""
        return sum('"samples"' in line for line in self._lines(generation))

    def checkpoints_begun(self) -> int:
        """How often rank 0 has begun a checkpoint."""
        return sum('"checkpoint"' in line for line in self._lines())

    def ranks_of(self, generation: int) -> int:
        """With how many ranks a generation runs; 0 where it has not begun."""
        return next((int(json.loads(line)["ranks"]) for line in self._lines(generation) if '"ranks"' in line), 0)

    async def made(self, steps: int, *, generation: int = 0, deadline_s: float = 120.0) -> None:
        """Returns once rank 0 has made so many steps, or the job is over."""

        async def is_there() -> bool:
            return self.steps(generation) >= steps or (await self.get()).state in ENDED

        try:
            await until(is_there, deadline_s)
        except AssertionError:
            raise AssertionError(f"no {steps} steps within {deadline_s} s: {await self.get()}") from None

    def hurry(self) -> None:
        """From now on it goes as fast as it can."""
        (self.records / recorded.HURRY).touch()

    async def get(self) -> Job:
        """The job now."""
        return await self.client.jobs.get(self.job_id)

    async def told(self, deadline_s: float = 240.0) -> Told:
        """How it went, once it is over."""
        job = await self.client.jobs.wait(self.job_id, timeout_s=deadline_s)
        assert job.state == Job.SUCCEEDED, (job.message, job.error)
        store = await sealed_store(self.stack.home, PROJECT)
        told = Told(plan=self.plan, records=self.records, store=store)
        told.project, told.finished = PROJECT, True
        told.resumed = {int(file.name.partition(".")[0]): "" for file in self.records.glob("*.jsonl")}
        kept = [each async for each in self.client.jobs.checkpoints(self.job_id)]
        told.accepted = [(each.generation, each.step, each.manifest) for each in reversed(kept)]
        return told

    def _lines(self, generation: int = 0) -> list[str]:
        pattern = f"{generation}.0.jsonl" if generation else "*.0.jsonl"
        return [line for file in self.records.glob(pattern) for line in file.read_text().splitlines()]


ENDED = frozenset({Job.SUCCEEDED, Job.FAILED, Job.CANCELLED})


def load(store: ArtifactStore, manifest: str) -> checkpoints.Checkpoint:
    """A checkpoint, read whole and verified."""
    found = checkpoints.load(store, PROJECT, manifest)
    assert found.state["model"]
    return found


def _archive() -> bytes:
    content = Path(str(recorded.__file__)).read_bytes()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as bundle:
        info = tarfile.TarInfo("recorded.py")
        info.size = len(content)
        bundle.addfile(info, io.BytesIO(content))
    return data.getvalue()
