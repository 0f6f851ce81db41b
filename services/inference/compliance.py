"""What the inference service holds, as compliance looks at it: versions, deployments, batches, optimisations."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Final

from chassis.compliance import asked_by
from chassis.kv import KV, list_all
from chassis.logs import logger
from lepton.compliance.rulebook import Violation
from lepton.compliance.subject import Act, Subject
from lepton.compliance.subjects import of_deployment, of_existing_version, of_optimization, of_prediction
from lepton.errors import NotFound
from lepton.inference.v1 import registry_pb2 as pb
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion, QuarantineCause
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.names import OptimizationName, ProjectName, VersionName
from services.inference.batch.store import batch_predictions
from services.inference.batch.store import prefix as batch_prefix
from services.inference.optimizations.keys import optimizations, optimizations_prefix
from services.inference.optimizations.progress import ENDED
from services.inference.quarantine import Quarantines
from services.inference.references import versions_of
from services.inference.registry import Registry
from services.inference.store import (
    DEPLOYMENTS,
    MODELS,
    deployments,
    deployments_prefix,
    models,
    models_prefix,
    quarantines_prefix,
)

log = logger(__name__)
BY: Final = "compliance"
"""Who has quarantined what a policy has: it is let back when the policy no longer asks for it."""
_OVER: Final = frozenset({BatchPrediction.SUCCEEDED, BatchPrediction.FAILED, BatchPrediction.CANCELLED})


async def admit_deployment(registry: Registry, deployment: Deployment) -> None:
    """Let a deployment pass, with all versions that it serves. Raises FailedPrecondition (COMPLIANCE_VIOLATION)."""
    if not registry.compliance.rulebook.policies:
        return
    served = [await registry.get_version(version) for version in sorted(versions_of(deployment))]
    pairs = [(each, await registry.get_model(str(VersionName.parse(each.name).parent))) for each in served]
    registry.compliance.admit(of_deployment(deployment, pairs, asked_by()))


class ModelInspector:
    """Every version, every deployment, and every batch prediction and optimisation that has not ended."""

    def __init__(self, kv: KV, registry: Registry, export_pools: Sequence[str] = ()) -> None:
        self._kv, self._registry, self._export_pools = kv, registry, tuple(export_pools)
        self._optimizations = optimizations(kv)
        self._quarantines = Quarantines(kv, registry)
        self._models, self._deployments, self._batches = models(kv), deployments(kv), batch_predictions(kv)

    async def projects(self) -> Iterable[str]:
        """Those that have models or deployments."""
        found = set()
        for prefix in (MODELS, DEPLOYMENTS):
            page = await list_all(self._kv, prefix)
            found |= {f"projects/{entry.key.removeprefix(prefix).partition('/')[0]}" for entry in page.entries}
        return found

    async def subjects(self, project: str) -> AsyncIterator[Subject]:
        """All that is to be judged."""
        name = ProjectName.parse(project)
        page = await list_all(self._kv, models_prefix(name))
        known = {model.name: model for model in map(self._models.of, page.entries)}
        versions = {version.name: version for version in await self._registry.all_versions(name)}
        for version in versions.values():
            for subject in of_existing_version(version, _model_of(version.name, known)):
                yield subject
        page = await list_all(self._kv, deployments_prefix(name))
        for deployment in map(self._deployments.of, page.entries):
            if deployment.state != Deployment.DELETING:
                served = [versions[each] for each in sorted(versions_of(deployment)) if each in versions]
                yield of_deployment(deployment, [(each, _model_of(each.name, known)) for each in served])
        page = await list_all(self._kv, batch_prefix(name))
        for batch in map(self._batches.of, page.entries):
            if batch.state not in _OVER:
                version = versions.get(batch.model_version, ModelVersion(name=batch.model_version))
                yield of_prediction(batch, version, _model_of(version.name, known), batch.input.artifact)
        page = await list_all(self._kv, optimizations_prefix(name))
        for search in map(self._optimizations.of, page.entries):
            if search.state not in ENDED:
                version = versions.get(search.model_version, ModelVersion(name=search.model_version))
                subject = of_optimization(search, version, _model_of(version.name, known))
                yield replace(subject, pools=subject.pools or self._export_pools)

    async def quarantine(self, violation: Violation) -> bool:
        """Quarantine a version: what is deployed of it gets no calls any more. Stop an optimisation."""
        if violation.subject.act is Act.CONVERT:
            return await self._stop(violation)
        if violation.subject.act not in (Act.REGISTER, Act.PROMOTE):
            return False
        version = VersionName.parse(violation.subject.resource)
        try:
            known = await self._registry.get_version(str(version))
        except NotFound:
            return False  # it was deleted meanwhile
        if all(cause.source != str(version) for cause in known.quarantine):
            reason = f"{violation.policy.name} (rule {violation.rule.id}): {violation.fault.problem}"
            request = pb.QuarantineModelsRequest(
                parent=str(version.parent.parent), source=str(version), reason=reason[:1000]
            )
            await self._quarantines.quarantine(request, by=BY)
        return True

    async def _stop(self, violation: Violation) -> bool:
        why = f"stopped by {violation.policy.name} (rule {violation.rule.id}): {violation.fault.problem}"

        def stop(current: Optimization) -> None:
            if current.state not in ENDED | {Optimization.CANCELLING, Optimization.DELETING}:
                current.state, current.message = Optimization.CANCELLING, why[:1000]

        try:
            await self._optimizations.change(OptimizationName.parse(violation.subject.resource), stop)
        except NotFound:
            return False  # it was deleted meanwhile
        log.warning("optimisation stopped by compliance", optimization=violation.subject.resource, why=why)
        return True

    async def settle(self, project: str, standing: Sequence[Violation]) -> None:
        """Let versions back that a policy had quarantined and no policy asks for any more."""
        needed = {each.subject.resource for each in standing if each.is_quarantined}
        page = await list_all(self._kv, quarantines_prefix(ProjectName.parse(project)))
        for cause in (QuarantineCause.FromString(entry.value) for entry in page.entries):
            if cause.principal == BY and cause.source not in needed:
                await self._quarantines.release(pb.ReleaseModelsRequest(parent=project, source=cause.source))


def _model_of(version: str, known: dict[str, Model]) -> Model:
    name = str(VersionName.parse(version).parent)
    return known.get(name, Model(name=name))
