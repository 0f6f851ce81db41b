"""`train(config)`: uploads the data, submits the job, tells how it goes, and returns what has come of it."""

import asyncio
import secrets
import sys
import time

from lepton import data
from lepton.client import AsyncClient
from lepton.client.jobs import ENDED
from lepton.client.loop_thread import LoopThread
from lepton.client.pools import pool_name
from lepton.distributed.config import DistributedTrainConfig
from lepton.distributed.datasets import dataset_of
from lepton.distributed.fleet import Devices, Tell, devices, reach
from lepton.distributed.result import TrainingResult
from lepton.errors import DeadlineExceeded, FailedPrecondition, PermissionDenied
from lepton.recipes import recipe
from lepton.trainer.v1.job_pb2 import Job, Parallelism, Recipe, Workers
from lepton.trainer.v1.trainer_service_pb2 import MetricPoint

__all__ = ["DistributedTrainConfig", "TrainingResult", "train", "train_async"]

_MAX_RESTARTS = 3


def train(config: DistributedTrainConfig) -> TrainingResult:
    """Trains, and returns when it is done; also where an event loop runs, as in a notebook.

    Raises InvalidArgument (the model, the data), FailedPrecondition (TRAINING_FAILED and what the fleet refuses),
    DeadlineExceeded (WAIT_TIMED_OUT: the job goes on). A Ctrl-C ends the waiting, not the job.
    """
    loop = LoopThread()
    try:
        return loop.run(train_async(config))
    finally:
        loop.close()


async def train_async(config: DistributedTrainConfig) -> TrainingResult:
    """The same for programs that await."""
    tell = _on_stderr if config.verbose else _to_nobody
    kind = recipe(config.recipe).data
    content = await asyncio.to_thread(lambda: data.to_safetensors(dataset_of(config.data, kind)))
    access = await reach(config.project, tell)
    async with access.client() as client:
        ranks = await _devices(client, config)
        tell(f"training {config.recipe}: {ranks.words}")
        artifact = await client.artifacts.upload(content)
        submitted = await client.jobs.create(
            config.name or _job_id(config.recipe), job_of(config, artifact.digest, ranks)
        )
        tell(f"submitted {submitted.name}")
        try:
            ended = await _followed(client, submitted, config, tell)
        except (asyncio.CancelledError, DeadlineExceeded):
            tell(f"the job goes on: lepton jobs watch {submitted.name.rpartition('/')[2]}")
            raise
        if ended.state != Job.SUCCEEDED:
            why = f"{ended.error.message or ended.message} {ended.error.advice}".strip().rstrip(".")
            raise FailedPrecondition("TRAINING_FAILED", job=ended.name, state=Job.State.Name(ended.state), why=why)
        curves = await client.jobs.curves(ended.name)
    return TrainingResult(job=ended, curves=curves, devices=ranks.words, access=access)


def job_of(config: DistributedTrainConfig, dataset: str, ranks: Devices) -> Job:
    """The job that a config asks for, on a dataset that is stored already; pure."""
    job = Job(
        recipe=Recipe(
            name=config.recipe,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            test_fraction=config.test_fraction,
        ),
        dataset=dataset,
        workers=Workers(count=config.gpu_count, devices=ranks.each),
        pools=[pool_name(pool) for pool in config.pools],
        max_restarts=_MAX_RESTARTS,
    )
    if config.settings:
        job.recipe.model.update(config.settings)
    kind = Parallelism.Data.Value(config.strategy.upper())
    if kind != Parallelism.DDP:
        job.parallelism.data = kind
    return job


async def _devices(client: AsyncClient, config: DistributedTrainConfig) -> Devices:
    try:
        nodes = await client.nodes.list().all()
    except PermissionDenied:
        return Devices(each=1, words=f"{config.gpu_count} ranks on one device each")
    return devices(nodes, config.gpu_count, config.pools)


async def _followed(client: AsyncClient, job: Job, config: DistributedTrainConfig, tell: Tell) -> Job:
    said = ""

    def look(current: Job) -> bool:
        nonlocal said
        words = Job.State.Name(current.state) + (f": {current.message}" if current.message else "")
        if words != said and current.state not in ENDED:
            tell(words)
        said = words
        return current.state in ENDED

    async def measure() -> None:
        epochs = _Epochs(config.epochs, tell)
        async for point in client.jobs.metrics(job.name, follow=True):
            epochs.take(point)
        epochs.close()

    measuring = asyncio.create_task(measure())
    try:
        ended = await client.jobs.wait(job.name, until=look, timeout_s=config.timeout_s)
        await measuring
    finally:
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
    return ended


class _Epochs:
    """Tells each epoch in one line, once all of it was measured."""

    def __init__(self, count: int, tell: Tell) -> None:
        self._count, self._tell = count, tell
        self._epoch, self._values = -1, dict[str, float]()

    def take(self, point: MetricPoint) -> None:
        if point.epoch != self._epoch:
            self.close()
            self._epoch = point.epoch
        self._values.update(point.values)

    def close(self) -> None:
        shown = {name: value for name, value in self._values.items() if name.endswith(("loss", "accuracy"))}
        if shown:
            values = "  ".join(f"{name} {shown[name]:.4f}" for name in sorted(shown, key=_order))
            speed = self._values.get("samples_per_s")
            rate = f"  {speed:.0f} samples/s" if speed else ""
            self._tell(f"epoch {self._epoch + 1}/{self._count}  {values}{rate}")
        self._values.clear()


def _order(name: str) -> tuple[bool, str]:
    return "_" in name, name  # what is measured while training, then what is held out


def _job_id(name: str) -> str:
    return f"{name.replace('_', '-')[:40]}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _on_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _to_nobody(_text: str) -> None:
    """Nobody wants to know."""
