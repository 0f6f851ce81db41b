"""Where models are converted and optimised: in the pools that the compliance policies leave, never in others."""

from collections.abc import Iterable, Sequence

from lepton.compliance.subject import Subject
from lepton.compliance.subjects import of_conversion, of_optimization
from lepton.errors import FailedPrecondition
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import VersionName
from services.inference.references import versions_of
from services.inference.registry import Registry


class Conversions:
    """Finds places.

    Each method raises FailedPrecondition (COMPLIANCE_VIOLATION) where there is none, and Unavailable
    (COMPLIANCE_NOT_READY) while that is not known.
    """

    def __init__(self, registry: Registry, export_pools: Sequence[str] = ()) -> None:
        self._registry = registry
        self._export_pools = tuple(export_pools)

    async def of_revision(self, deployment: Deployment, revision: DeploymentRevision) -> tuple[str, ...]:
        """Where what a revision serves is converted: the pools of exports, else those that it is served in."""
        if not self._is_judged:
            return self._export_pools
        subject = of_conversion(deployment.name, await self._models(versions_of(revision)), ())
        return self._first(subject, self._export_pools, revision.pools)

    async def of_batch(self, batch: BatchPrediction) -> tuple[str, ...]:
        """Where a batch prediction is prepared, with its dataset: its own pools, else those of exports."""
        pools = tuple(batch.pools) or self._export_pools
        if not self._is_judged:
            return pools
        models = await self._models((batch.model_version,))
        return self._registry.compliance.placed(of_conversion(batch.name, models, (), batch.input.artifact), pools)

    async def of_optimization(self, optimization: Optimization) -> tuple[str, ...]:
        """Where the variants of an optimisation are made: its own pools, else those of exports."""
        pools = tuple(optimization.pools) or self._export_pools
        if not self._is_judged:
            return pools
        return self._registry.compliance.placed(await self._subject(optimization), pools)

    async def admit(self, optimization: Optimization, principal: str) -> None:
        """Lets an optimisation pass that a principal asks for. Each pool that it names must do.

        One that names none is given those that do, so that everybody sees where it may go, and it is judged by them.
        """
        if not self._is_judged:
            return
        if not optimization.pools:
            optimization.pools.extend(await self.of_optimization(optimization))
        self._registry.compliance.admit(await self._subject(optimization, principal))

    async def _subject(self, optimization: Optimization, principal: str = "") -> Subject:
        ((version, model),) = await self._models((optimization.model_version,))
        return of_optimization(optimization, version, model, principal)

    @property
    def _is_judged(self) -> bool:
        return bool(self._registry.compliance.rulebook.policies)

    def _first(self, subject: Subject, preferred: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
        placed = self._registry.compliance.placed
        try:
            return placed(subject, preferred)
        except FailedPrecondition:
            if not others:
                raise
            return placed(subject, others)

    async def _models(self, versions: Iterable[str]) -> list[tuple[ModelVersion, Model]]:
        served = [await self._registry.get_version(version) for version in sorted(versions)]
        return [(each, await self._registry.get_model(str(VersionName.parse(each.name).parent))) for each in served]
