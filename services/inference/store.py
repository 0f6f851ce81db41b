"""Where the inference service keeps models, versions and deployments in the key-value state."""

from typing import Final

from chassis.kv import KV
from chassis.resources import Resources
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.names import DeploymentName, ModelName, ProjectName, VersionName

ROOT: Final = "/lepton/inference/"
MODELS: Final = f"{ROOT}models/"
DEPLOYMENTS: Final = f"{ROOT}deployments/"
REQUESTS: Final = f"{ROOT}requests/"
LEADER: Final = f"{ROOT}leader"
PAGE_KEY: Final = f"{ROOT}page_key"


def models_prefix(project: ProjectName) -> str:
    """Below it lie a project's models."""
    return f"{MODELS}{project.project}/"


def model_key(name: ModelName) -> str:
    """Where a model lies."""
    return f"{MODELS}{name.project}/{name.model}"


def versions_prefix(name: ModelName) -> str:
    """Below it lie a model's versions, the newest first."""
    return f"{ROOT}versions/{name.project}/{name.model}/"


def version_key(name: VersionName) -> str:
    """Where a version lies: the number is stored so that the newest comes first."""
    return f"{versions_prefix(name.parent)}{99_999_999 - int(name.version):08d}"


def served_key(name: ModelName) -> str:
    """A mark that every deployment of a model renews when it is created, so that the model is not deleted meanwhile."""
    return f"{ROOT}served/{name.project}/{name.model}"


def deployments_prefix(project: ProjectName) -> str:
    """Below it lie a project's deployments."""
    return f"{DEPLOYMENTS}{project.project}/"


def deployment_key(name: DeploymentName) -> str:
    """Where a deployment lies."""
    return f"{DEPLOYMENTS}{name.project}/{name.deployment}"


def deployment_name_of(key: str) -> DeploymentName:
    """The deployment that lies at a key."""
    project, _, deployment = key.removeprefix(DEPLOYMENTS).partition("/")
    return DeploymentName(project, deployment)


def models(kv: KV) -> Resources[ModelName, Model]:
    """The models."""
    return Resources(kv, Model, model_key)


def versions(kv: KV) -> Resources[VersionName, ModelVersion]:
    """The versions."""
    return Resources(kv, ModelVersion, version_key)


def deployments(kv: KV) -> Resources[DeploymentName, Deployment]:
    """The deployments."""
    return Resources(kv, Deployment, deployment_key)
