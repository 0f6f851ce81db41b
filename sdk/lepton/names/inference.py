"""Names of the inference service's resources."""

from dataclasses import dataclass
from typing import ClassVar

from lepton.names.auth import ProjectName
from lepton.names.resource import CHOSEN, ResourceName


@dataclass(frozen=True, slots=True)
class ModelName(ResourceName):
    """A model of the registry."""

    pattern = "projects/{project}/models/{model}"
    project: str
    model: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class VersionName(ResourceName):
    """One version of a model."""

    pattern = "projects/{project}/models/{model}/versions/{version}"
    shapes: ClassVar[dict[str, str]] = {"version": CHOSEN}
    project: str
    model: str
    version: str

    @property
    def parent(self) -> ModelName:
        """The model it belongs to."""
        return ModelName(self.project, self.model)


@dataclass(frozen=True, slots=True)
class OptimizationName(ResourceName):
    """A search for a smaller or faster variant of a model."""

    pattern = "projects/{project}/models/{model}/optimizations/{optimization}"
    project: str
    model: str
    optimization: str

    @property
    def parent(self) -> ModelName:
        """The model it is of."""
        return ModelName(self.project, self.model)


@dataclass(frozen=True, slots=True)
class DeploymentName(ResourceName):
    """A version being served."""

    pattern = "projects/{project}/deployments/{deployment}"
    project: str
    deployment: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class DeploymentRevisionName(ResourceName):
    """One template of a deployment; the id is its number."""

    pattern = "projects/{project}/deployments/{deployment}/revisions/{revision}"
    shapes: ClassVar[dict[str, str]] = {"revision": "[1-9][0-9]{0,7}"}
    project: str
    deployment: str
    revision: str

    @property
    def parent(self) -> DeploymentName:
        """The deployment it belongs to."""
        return DeploymentName(self.project, self.deployment)

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return int(self.revision)


@dataclass(frozen=True, slots=True)
class BatchPredictionName(ResourceName):
    """A model applied to a dataset."""

    pattern = "projects/{project}/batchPredictions/{batch_prediction}"
    project: str
    batch_prediction: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)
