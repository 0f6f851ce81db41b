"""What runs a slice, and what the two sides of that know of each other: one runner per kind of program."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lepton.scheduler.v1 import workload_pb2
from services.agent.artifact_places import ArtifactPlaces
from services.agent.order import SliceOrder

Slice = workload_pb2.Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a slice ended."""

    state: Slice.State.ValueType
    exit_code: int = 0
    message: str = ""
    failure: workload_pb2.SliceFailure | None = None  # how it failed, where that could be told


class Stop:
    """The request to end a slice, with how long it may take."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.grace_s = 0.0
        self.reason = ""

    @property
    def is_asked(self) -> bool:
        """Whether the slice was asked to end."""
        return self._asked.is_set()

    def ask(self, grace_s: float, reason: str) -> None:
        """Ask; only the first request counts."""
        if not self._asked.is_set():
            self.grace_s, self.reason = grace_s, reason
            self._asked.set()

    async def asked(self) -> None:
        """Returns once the slice was asked to end."""
        await self._asked.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceControl:
    """What a runner is given beside its order."""

    stop: Stop
    traceparent: str
    report: Callable[..., None]

    def starting(self, message: str = "", *, endpoints: Mapping[str, str] | None = None) -> None:
        """It is being prepared."""
        self.report(Slice.STARTING, message=message, endpoints=endpoints)

    def running(self, message: str = "") -> None:
        """Its process exists; a message says what keeps it from being ready."""
        self.report(Slice.RUNNING, message=message[-1000:])

    def ready(self, endpoints: Mapping[str, str], facts: Mapping[str, str] | None = None) -> None:
        """It has proved that it does its work."""
        self.report(Slice.READY, endpoints=endpoints, facts=facts)

    def output(self, name: str, digest: str) -> None:
        """It has produced an artifact."""
        self.report(None, outputs={name: digest})


class Runner(Protocol):
    """Runs the slices of one kind of program."""

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        """Run a slice to its end. A stop request ends it with grace; cancellation kills it before it returns.

        A LeptonError or OSError means that it could not be started.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every slice of this node finds around it."""

    address: str  # where other nodes reach this one
    artifacts: str  # the store's URL
    otlp_endpoint: str
    device_uuids: Mapping[int, str]  # of the real accelerators, by index
    device_models: Mapping[int, str] = field(default_factory=dict)  # likewise
    otlp_certificate: Path | None = None  # PEM file of the authorities to trust there, in a folder of its own
    places: ArtifactPlaces | None = None  # where each project has keys of its own for its artifacts

    def artifacts_of(self, project: str) -> str:
        """The artifact store's URL for what runs for a project."""
        return self.artifacts if self.places is None else self.places.url(project)

    def shown_of(self, project: str) -> tuple[Path, ...]:
        """The folders that what runs for a project must be able to read for it."""
        roots = () if self.otlp_certificate is None else (self.otlp_certificate.parent,)
        return roots if self.places is None else (*roots, *self.places.shown(project))

    async def artifacts_ready(self, project: str) -> None:
        """Returns once that URL can be opened. Raises LeptonError."""
        if self.places is not None:
            await self.places.ready(project)
