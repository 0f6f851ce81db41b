"""A job that is stopped, killed, cut off and resized as a schedule says: real ranks, the trainer's real commits.

The test plays the agents and the scheduler; generations, fencing and commits are the trainer's own code.
"""

import asyncio
import json
import signal
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from chassis.artifacts import ArtifactStore
from chassis.resources import now
from lepton.artifacts import ArtifactStore as RankStore
from lepton.errors import LeptonError
from lepton.internal.v1 import run_report_pb2 as report
from lepton.names import JobName
from lepton.train import checkpoints
from lepton.trainer.v1.job_pb2 import CodeBundle, Job, Workers
from lepton.trainer.v1.trainer_service_pb2 import CreateJobRequest
from services.agent import rank_line
from services.agent.launcher import Exit, LauncherClient
from services.trainer.runs import Runs
from services.trainer.store import JobStore, workload_uid_key
from services.trainer.submission import new_job
from tests.harness.gang import PROJECT, PlayedAgent, start_gang
from tests.harness.memory_kv import MemoryKV

PROGRAM = "tests.harness.ranks.recorded"
STOPPED = 75


class End(Enum):
    """How a generation ends before the job does."""

    KILL = "SIGKILL of a rank"
    KILL_BEFORE_COMMIT = "SIGKILL of rank 0 with a checkpoint written, and not committed"
    KILL_AFTER_COMMIT = "SIGKILL of rank 0 with a checkpoint committed, and the answer lost"
    PREEMPT = "a notice, and a checkpoint"
    CUT = "its nodes are cut off: the ranks go on for nobody"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One generation: so many ranks, which see the end after so many steps (or checkpoints) of their own."""

    ranks: int
    end: End = End.KILL
    after: int = 1
    victim: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job has to live through, and what it trains."""

    turns: Sequence[Turn] = ()
    last: int = 2
    """Ranks of the generation that comes to the end."""
    samples: int = 90
    batch: int = 12
    epochs: int = 3
    every: int = 4
    fault: str = ""
    ballast: int = 0
    pause: float = 0.0

    @property
    def is_steady(self) -> bool:
        """Whether the number of ranks is the same throughout."""
        return {turn.ranks for turn in self.turns} <= {self.last}

    @property
    def arguments(self) -> tuple[str, ...]:
        """Those of the program."""
        names = ("samples", "batch", "epochs", "every", "ballast", "pause")
        numbers = {name: getattr(self, name) for name in names}
        named = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
        return (*named, "--fault", self.fault)


@dataclass(kw_only=True)
class Told:
    """How it went."""

    plan: Plan
    records: Path
    store: RankStore
    accepted: list[tuple[int, int, str]] = field(default_factory=list)
    """Every commit that counts: generation, step, manifest; in order."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """Generation and reason of the commits that do not."""
    resumed: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    finished: bool = False
    project: str = PROJECT

    @property
    def generations(self) -> list[int]:
        """Those that were opened."""
        return sorted(self.resumed)

    @property
    def sizes(self) -> frozenset[int]:
        """The numbers of ranks that its generations had."""
        begun = (file.open() for file in self.records.glob("*.jsonl"))
        lines = (json.loads(line) for file in begun for line in file if '"ranks"' in line)
        return frozenset(line["ranks"] for line in lines)

    def committed(self) -> list[Mapping[str, Any]]:
        """The committed history: of each rank of each generation what it did before the last checkpoint of the
        generation that counts, in the order of the generations.

        What was done after it, and lost, is done again by the next, and is not part of it.
        """
        last = {generation: step for generation, step, _ in self.accepted}
        lines: list[Mapping[str, Any]] = []
        for generation in self.generations:
            for file in sorted(self.records.glob(f"{generation}.*.jsonl")):
                if generation in last:
                    lines += _until_checkpoint(file, last[generation])
        return lines

    def state(self) -> Mapping[str, Any]:
        """The last checkpoint that counts."""
        return checkpoints.load(self.store, self.project, self.accepted[-1][2]).state


def _until_checkpoint(file: Path, step: int) -> list[Mapping[str, Any]]:
    read: list[Mapping[str, Any]] = []
    for line in map(json.loads, file.read_text().splitlines()):
        if line.get("checkpoint") == step:
            return read
        if "samples" in line:
            read.append(line)
    raise AssertionError(f"{file.name} has no checkpoint of step {step}, which counts")


class ElasticJob:
    """Plays one plan. `runs` opens generations and takes commits: the trainer's, unless a test breaks it on purpose."""

    def __init__(
        self,
        launcher: LauncherClient,
        folder: Path,
        plan: Plan,
        *,
        runs: type[Runs] = Runs,
        resumes_older: bool = False,
    ) -> None:
        self._launcher, self._folder, self._plan = launcher, folder, plan
        self._kv = MemoryKV()
        self._jobs = JobStore(self._kv)
        url = f"file://{folder}/artifacts"
        self._runs = runs(self._jobs, ArtifactStore(url))
        self._resumes_older = resumes_older
        (folder / "records").mkdir(parents=True)
        self.told = Told(plan=plan, records=folder / "records", store=RankStore(url))
        self._gangs: dict[int, PlayedAgent] = {}
        self._playing: dict[int, asyncio.Task[list[Exit]]] = {}
        self._steps: dict[int, int] = {}
        self._checkpoints: dict[int, int] = {}
        self._succeeded: dict[int, asyncio.Event] = {}

    async def play(self) -> Told:
        """Lives through every turn, then to the end of the job."""
        async with self._kv:
            self._name = await self._submit()
            try:
                for generation, turn in enumerate(self._plan.turns, start=1):
                    if await self._turn(generation, turn):
                        return self.told
                last = len(self._plan.turns) + 1
                await self._open(last, Turn(ranks=self._plan.last, after=0))
                exits = await self._playing[last]
                await self._cut_off_heard()
                self._finish(last, exits)
            finally:
                await self._end_all()
        return self.told

    async def _submit(self) -> JobName:
        bundle = CodeBundle(digest="sha256:" + "b" * 64, entry_point="train.py")
        request = CreateJobRequest(
            parent=f"projects/{PROJECT}", job_id="exact", job=Job(bundle=bundle, workers=Workers(count=2)),
            request_id=str(uuid.uuid4()),
        )  # fmt: skip
        job = new_job(request, "", now())
        name = JobName.parse(job.name)
        await self._jobs.create(name, job)
        await self._kv.put(workload_uid_key(name), b"uid")
        return name

    async def _turn(self, generation: int, turn: Turn) -> bool:
        """Whether the job was over before the turn was."""
        await self._open(generation, turn)
        playing = self._playing[generation]
        gang = self._gangs[generation]
        due = asyncio.create_task(self._reached.wait())
        await asyncio.wait({playing, due}, return_when=asyncio.FIRST_COMPLETED)
        due.cancel()
        if turn.end is End.CUT and not playing.done():
            return False  # and its ranks go on
        if turn.end is End.PREEMPT:
            for handle in gang.handles:
                await handle.stop(30.0)
        elif not playing.done():
            victim = 0 if turn.end is not End.KILL else turn.victim % turn.ranks
            gang.handles[victim].kill(signal.SIGKILL)
            await gang.handles[victim].exited
            for handle in gang.handles:  # as the scheduler has the agents do
                handle.kill(signal.SIGKILL)
        exits = await playing
        if all(each.is_success for each in exits):
            self._finish(generation, exits)
            return True
        if turn.end is End.PREEMPT:
            assert {each.code for each in exits} == {STOPPED}, self.told.errors
        return False

    async def _open(self, generation: int, turn: Turn) -> None:
        opened = await self._runs.start(
            report.StartRunRequest(
                job=str(self._name), generation=generation, workload_uid="uid", world_size=turn.ranks
            )
        )
        if generation > 1:
            self._succeeded[generation - 1].set()
        self._succeeded[generation] = asyncio.Event()
        resume = opened.resume_manifest
        if self._resumes_older and len(self.told.accepted) > 1:
            resume = self.told.accepted[-2][2]
        self.told.resumed[generation] = resume
        self._steps[generation] = self._checkpoints[generation] = 0
        env = {
            "LEPTON_ARTIFACTS": self.told.store.url, "LEPTON_RESUME": resume, "LEPTON_JOB": str(self._name),
            "LEPTON_RESUME_OLDER": ",".join(opened.older_manifests),
        }  # fmt: skip
        gang = self._gangs[generation] = await start_gang(
            self._launcher, world_size=turn.ranks, folder=self._folder, entry=PROGRAM, generation=generation, env=env,
            argv=("--records", str(self.told.records), *self._plan.arguments),
        )  # fmt: skip
        self._reached = asyncio.Event()
        self._playing[generation] = asyncio.create_task(self._attend(generation, turn, gang, self._reached))

    async def _attend(self, generation: int, turn: Turn, gang: PlayedAgent, reached: asyncio.Event) -> list[Exit]:
        async with asyncio.TaskGroup() as tasks:
            for rank, handle in enumerate(gang.handles):
                tasks.create_task(self._listen(generation, turn, gang, rank, reached))
                tasks.create_task(PlayedAgent._read(gang.output, rank, handle.stdout))
                tasks.create_task(PlayedAgent._read(gang.errors, rank, handle.stderr))
            exits = [await handle.exited for handle in gang.handles]
        for handle in gang.handles:
            handle.close()
        self.told.errors += [f"generation {generation}: {text}" for text in gang.errors.values() if text]
        return exits

    async def _listen(self, generation: int, turn: Turn, gang: PlayedAgent, rank: int, reached: asyncio.Event) -> None:
        handle = gang.handles[rank]
        with suppress(ConnectionError):
            async for line in handle.reports():
                if line["kind"] == "metrics" and rank == 0:
                    self._steps[generation] += 1
                    by_steps = turn.end in (End.KILL, End.PREEMPT, End.CUT)
                    if by_steps and self._steps[generation] >= turn.after:
                        reached.set()
                if line["kind"] == "checkpoint":
                    await self._commit(generation, turn, handle, line, reached)

    async def _commit(
        self, generation: int, turn: Turn, handle: Any, line: Mapping[str, Any], reached: asyncio.Event
    ) -> None:
        if turn.end is End.CUT and reached.is_set():
            await self._succeeded[generation].wait()  # what was on its way comes late
        self._checkpoints[generation] += 1
        is_last_seen = self._checkpoints[generation] >= turn.after
        if turn.end is End.KILL_BEFORE_COMMIT and turn.after and is_last_seen:
            reached.set()
            return
        meant = rank_line.read(line)
        assert isinstance(meant, rank_line.RankEvent)
        written = meant.event.checkpoint
        try:
            await self._runs.commit_checkpoint(self._name, generation, written)
        except LeptonError as error:
            self.told.refused.append((generation, error.reason))
            await handle.nack(line["id"], error.reason)
            return
        self.told.accepted.append((generation, written.step, written.manifest))
        if turn.end is End.KILL_AFTER_COMMIT and turn.after and is_last_seen:
            reached.set()
            return
        await handle.ack(line["id"])

    async def _cut_off_heard(self) -> None:
        """Whoever was cut off comes to its next checkpoint, and hears what becomes of it."""
        cut = [at for at, turn in enumerate(self._plan.turns, start=1) if turn.end is End.CUT]
        await asyncio.gather(*(self._gangs[generation].handles[0].exited for generation in cut))

    def _finish(self, generation: int, exits: Sequence[Exit]) -> None:
        assert all(each.is_success for each in exits), (exits, self.told.errors)
        self.told.finished = True

    async def _end_all(self) -> None:
        for gang in self._gangs.values():
            for handle in gang.handles:
                handle.kill(signal.SIGKILL)
        await asyncio.gather(*self._playing.values(), return_exceptions=True)
        for gang in self._gangs.values():
            gang.store.kill()
            await gang.store.exited


def uninterrupted(plan: Plan, ranks: int) -> Plan:
    """The same training with nothing in its way."""
    return replace(plan, turns=(), last=ranks, fault="", ballast=0, pause=0.0)
