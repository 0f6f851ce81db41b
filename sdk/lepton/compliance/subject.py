"""What is judged: something that is asked for, or that exists, in the words that rules understand."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class Act(enum.Enum):
    """What is asked for, or was."""

    JOB = "job"
    REGISTER = "register"  # a model version
    PROMOTE = "promote"  # ... to `to_stage`
    DEPLOY = "deploy"
    PREDICT = "predict"  # a batch of it
    CONVERT = "convert"  # a model version, into a variant or for its servers
    RUN = "run"  # a workload that no service made
    KEEP_CHECKPOINT = "keep a checkpoint"
    KEEP_ARTIFACT = "keep an artifact"
    DELETE_CHECKPOINT = "delete a checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model version that is used."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)  # of its model; its own tags win
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    stage: str = "NONE"
    creator: str = ""
    data: tuple[str, ...] = ()  # digests of what it says it was trained on
    ancestry: tuple[str, ...] = ()  # ... and of all that it goes back to

    def label(self, key: str) -> str:
        """A label of the version, or of its model; empty when there is none."""
        return self.tags.get(key, "") or self.labels.get(key, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is asked for, or exists (then nobody asks: `principal` is empty)."""

    act: Act
    resource: str
    principal: str = ""
    etag: str = ""
    data: tuple[str, ...] = ()  # digests of the data that it uses
    ancestry: tuple[str, ...] = ()  # ... and of what that goes back to, as far as it is known
    models: tuple[ModelFacts, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)  # its own, where it does not say what it uses
    pools: tuple[str, ...] | None = None  # where it may run: () = anywhere, None = nowhere
    to_stage: str = ""
    has_gate: bool = False
    created: datetime | None = None
    digests: tuple[str, ...] = ()  # evidence of what it is

    @property
    def exists(self) -> bool:
        """Whether it is looked at because it is there, and not because someone asks."""
        return not self.principal

    @property
    def project(self) -> str:
        """`projects/{project}`."""
        return "/".join(self.resource.split("/")[:2])
