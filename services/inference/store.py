"""Where the inference service keeps models, versions and deployments in the key-value state."""

import hashlib
from typing import Final

from chassis.kv import KV
from chassis.resources import Resources
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import DeploymentName, DeploymentRevisionName, ModelName, ProjectName, VersionName

ROOT: Final = "/lepton/inference/"
MODELS: Final = f"{ROOT}models/"
DEPLOYMENTS: Final = f"{ROOT}deployments/"
REVISIONS: Final = f"{ROOT}revisions/"
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


def revisions_prefix(name: DeploymentName) -> str:
    """Below it lie a deployment's revisions, the newest first."""
    return f"{REVISIONS}{name.project}/{name.deployment}/"


def revision_key(name: DeploymentRevisionName) -> str:
    """Where a revision lies: the number is stored so that the newest comes first."""
    return f"{revisions_prefix(name.parent)}{99_999_999 - name.number:08d}"


def models(kv: KV) -> Resources[ModelName, Model]:
    """The models."""
    return Resources(kv, Model, model_key)


def versions(kv: KV) -> Resources[VersionName, ModelVersion]:
    """The versions."""
    return Resources(kv, ModelVersion, version_key)


def deployments(kv: KV) -> Resources[DeploymentName, Deployment]:
    """The deployments."""
    return Resources(kv, Deployment, deployment_key)


def revisions(kv: KV) -> Resources[DeploymentRevisionName, DeploymentRevision]:
    """The revisions of deployments."""
    return Resources(kv, DeploymentRevision, revision_key)


def project_versions_prefix(project: ProjectName) -> str:
    """Below it lie the versions of every model of a project."""
    return f"{ROOT}versions/{project.project}/"


QUARANTINED: Final = f"{ROOT}quarantined/"
"""Marks of the versions that must not be served, written with the version; what serves follows them."""


def quarantined_key(name: VersionName) -> str:
    """The mark of a version that must not be served."""
    return f"{QUARANTINED}{name.project}/{name.model}/{name.version}"


def quarantined_version_of(key: str) -> VersionName:
    """The version that is marked at a key."""
    project, model, version = key.removeprefix(QUARANTINED).split("/")
    return VersionName(project, model, version)


def quarantines_prefix(project: ProjectName) -> str:
    """Below it lie the sources that a project has quarantined, each a QuarantineCause."""
    return f"{ROOT}quarantines/{project.project}/"


def quarantine_key(project: ProjectName, source: str) -> str:
    """Where a quarantined source lies: sources are names and digests of any length, keys are not."""
    return f"{quarantines_prefix(project)}{hashlib.sha256(source.encode()).hexdigest()}"


def quarantine_epoch_key(project: ProjectName) -> str:
    """Changes with every change of a project's quarantines, so that a version is never registered past one."""
    return f"{ROOT}quarantine_epochs/{project.project}"
