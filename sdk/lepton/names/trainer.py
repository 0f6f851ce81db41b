"""Names of the trainer's resources."""

from dataclasses import dataclass
from typing import ClassVar

from lepton.names.auth import ProjectName
from lepton.names.resource import CHOSEN, HEX, ResourceName


@dataclass(frozen=True, slots=True)
class JobName(ResourceName):
    """A training job."""

    pattern = "projects/{project}/jobs/{job}"
    project: str
    job: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class CheckpointName(ResourceName):
    """A committed checkpoint of a job."""

    pattern = "projects/{project}/jobs/{job}/checkpoints/{checkpoint}"
    shapes: ClassVar[dict[str, str]] = {"checkpoint": CHOSEN}
    project: str
    job: str
    checkpoint: str

    @property
    def parent(self) -> JobName:
        """The job it belongs to."""
        return JobName(self.project, self.job)


@dataclass(frozen=True, slots=True)
class ArtifactName(ResourceName):
    """Bytes of a project, named by their SHA-256 in hexadecimal."""

    pattern = "projects/{project}/artifacts/{artifact}"
    shapes: ClassVar[dict[str, str]] = {"artifact": HEX}
    project: str
    artifact: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)
