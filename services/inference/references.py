"""Who needs a version: the deployments and revisions that serve it, the aliases that name it, what optimises it."""

from collections.abc import Collection, Mapping
from typing import Final

from chassis.kv import KV, Compare, Put, absent, list_all
from lepton.errors import FailedPrecondition, NotFound
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import DeploymentRevisionName, ModelName, ProjectName, VersionName
from services.inference.batch.store import batch_predictions
from services.inference.batch.store import prefix as batch_prefix
from services.inference.optimizations.keys import optimizations, optimizations_prefix
from services.inference.store import (
    REVISIONS,
    deployments,
    deployments_prefix,
    quarantined_key,
    revisions,
    served_key,
    versions,
)

_SEARCHED: Final = frozenset({Optimization.SUCCEEDED, Optimization.FAILED, Optimization.CANCELLED})
_PREDICTED: Final = frozenset({BatchPrediction.SUCCEEDED, BatchPrediction.FAILED, BatchPrediction.CANCELLED})


def versions_of(template: Deployment | DeploymentRevision) -> frozenset[str]:
    """The versions that a template serves: its own and those of its pipeline's steps."""
    steps = {step.model.model_version for step in template.pipeline.steps if step.WhichOneof("kind") == "model"}
    return frozenset({template.model_version, *steps} - {""})


async def served_versions(kv: KV, project: ProjectName) -> dict[str, frozenset[str]]:
    """Every deployment of a project with the versions that it or one of its revisions serves or could go back to."""
    page = await list_all(kv, deployments_prefix(project))
    found = {each.name: versions_of(each) for each in map(deployments(kv).of, page.entries)}
    page = await list_all(kv, f"{REVISIONS}{project.project}/")
    for revision in map(revisions(kv).of, page.entries):
        deployment = str(DeploymentRevisionName.parse(revision.name).parent)
        if deployment in found:
            found[deployment] |= versions_of(revision)
    return found


async def deployed_of(kv: KV, model: ModelName) -> str:
    """A deployment that serves a version of the model; empty when there is none."""
    served = await served_versions(kv, model.parent)
    return next((name for name, used in served.items() if any(each.startswith(f"{model}/") for each in used)), "")


async def user_of(kv: KV, model: Model, version: VersionName) -> str:
    """Who needs a version: a deployment's name, or an alias of its model; empty when nobody does."""
    served = await served_versions(kv, version.parent.parent)
    if found := next((name for name, used in served.items() if str(version) in used), ""):
        return found
    if found := await worked_on(kv, version.parent, version):
        return found
    number = int(version.version)
    return next((f"the alias {alias}" for alias, pointed in sorted(model.aliases.items()) if pointed == number), "")


async def worked_on(kv: KV, model: ModelName, version: VersionName | None = None) -> str:
    """An optimisation or a batch prediction of a model, or of one version of it, that has not ended; empty = none."""

    def is_of(used: str) -> bool:
        return used.startswith(f"{model}/versions/") if version is None else used == str(version)

    page = await list_all(kv, optimizations_prefix(model))
    for search in map(optimizations(kv).of, page.entries):
        if is_of(search.model_version) and search.state not in _SEARCHED:
            return search.name
    page = await list_all(kv, batch_prefix(model.parent))
    for batch in map(batch_predictions(kv).of, page.entries):
        if is_of(batch.model_version) and batch.state not in _PREDICTED:
            return batch.name
    return ""


async def check_servable(kv: KV, template: Deployment | DeploymentRevision) -> None:
    """Raises FailedPrecondition (VERSION_QUARANTINED) when one of the template's versions must not be served."""
    for text in sorted(versions_of(template)):
        name = VersionName.parse(text)
        if name.version.isdecimal() and await kv.get(quarantined_key(name)) is not None:
            raise quarantined(await versions(kv).get(name))


async def why_unservable(kv: KV, template: Deployment | DeploymentRevision) -> str:
    """Why the gateways send a template no calls, in words; empty when they do."""
    try:
        await check_servable(kv, template)
    except FailedPrecondition as error:
        return f"no calls are sent to it: {error.metadata['version']} is quarantined ({error.metadata['why']})"
    except NotFound:
        return ""  # the version is gone, and its quarantine with it
    return ""


def unquarantined(template: Deployment | DeploymentRevision) -> list[Compare]:
    """The condition that none of the template's versions has been quarantined since it was checked."""
    return [absent(quarantined_key(VersionName.parse(text))) for text in sorted(versions_of(template))]


def served_marks(template: Deployment | DeploymentRevision) -> list[Put]:
    """What keeps the versions of a template from being deleted while it is being stored."""
    models = {VersionName.parse(text).parent for text in versions_of(template)}
    return [Put(served_key(model), b"") for model in sorted(models, key=str)]


def quarantined(version: ModelVersion) -> FailedPrecondition:
    """The answer to whoever wants to serve a quarantined version."""
    causes = (f"{cause.source}: {cause.reason}" if cause.reason else cause.source for cause in version.quarantine)
    return FailedPrecondition("VERSION_QUARANTINED", version=version.name, why="; ".join(causes)[:1000])


def without_quarantined(
    revisions: Mapping[str, DeploymentRevision], quarantined: Collection[str]
) -> dict[str, DeploymentRevision]:
    """The revisions, by name, all of whose versions may be served; pure."""
    return {name: each for name, each in revisions.items() if not versions_of(each) & set(quarantined)}
