"""Optimisations as their users create, stop and delete them; what follows from that is the reconciler's."""

import math
import uuid
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.callers import creator
from chassis.compliance import asked_by
from chassis.holdings import Limits, Unlimited
from chassis.kv import KV, Put, absent, present
from chassis.requests import Claim, Requests
from chassis.resources import now
from chassis.telemetry import traceparent
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1 import optimization_service_pb2 as pb
from lepton.inference.v1.optimization_pb2 import Optimization, OptimizationRule, OptimizationVariant
from lepton.models import ModelPackage
from lepton.models.package import WEIGHTS
from lepton.names import ModelName, OptimizationName, PoolName, QueueName, VersionName
from services.inference.compress.variants import chosen, unsuitable
from services.inference.conversions import Conversions
from services.inference.counting import devices_of
from services.inference.optimizations.keys import optimizations
from services.inference.optimizations.progress import ENDED
from services.inference.references import quarantined
from services.inference.registry import LATEST, Registry
from services.inference.store import REQUESTS, model_key, quarantined_key, served_key, version_key

DEFAULT_DROP: Final = 0.005


class Searches:
    """Creates, stops and deletes optimisations."""

    def __init__(
        self,
        kv: KV,
        registry: Registry,
        artifacts: ArtifactStore,
        limits: Limits | None = None,
        conversions: Conversions | None = None,
    ) -> None:
        self._limits = limits or Unlimited()
        self._conversions = conversions or Conversions(registry)
        self._registry, self._artifacts = registry, artifacts
        self._optimizations = optimizations(kv)
        self._requests = Requests(kv, REQUESTS)

    async def create(self, request: pb.CreateOptimizationRequest) -> Optimization:
        """A new search. Raises AlreadyExists, NotFound (the version), InvalidArgument, FailedPrecondition."""
        return await self._requests.once(request, Optimization, lambda claim: self._create(request, claim))

    async def _create(self, request: pb.CreateOptimizationRequest, claim: Claim) -> Optimization | None:
        model, given = ModelName.parse(request.parent, "parent"), request.optimization
        name = OptimizationName(model.project, model.model, request.optimization_id)
        for index, pool in enumerate(given.pools):
            PoolName.parse(pool, f"optimization.pools[{index}]")
        if given.queue:
            QueueName.parse(given.queue, "optimization.queue")
        for field in ("max_accuracy_drop", "max_size_ratio"):
            if not math.isfinite(getattr(given.rule, field)):
                raise _invalid(f"optimization.rule.{field}", "must be a number from 0 to 1")
        version = await self._registry.get_version(_asked(model, given.model_version))
        pinned = VersionName.parse(version.name)
        if await self._registry.is_quarantined(version.name):
            raise quarantined(version)
        package = await self._registry.package(version)
        if given.dataset:
            await self._check_dataset(model.project, given.dataset)
        optimization = _new(name, version.name, version.package, given)
        optimization.variant_states.extend(_variants(given, package))
        await self._conversions.admit(optimization, asked_by())
        optimization.creator = creator()
        guard = [present(model_key(model)), present(version_key(pinned)), absent(quarantined_key(pinned))]
        beside = Put(served_key(model), b"")  # whoever deletes the version meanwhile looks again
        async with self._limits.admit(optimization.creator, devices_of(optimization)) as admitted:
            return await self._optimizations.create(
                name, optimization, claim, guard=[*guard, *admitted.guard], beside=[beside, *admitted.ops]
            )

    async def cancel(self, request: pb.CancelOptimizationRequest) -> Optimization:
        """Begins to stop a search. Raises NotFound, FailedPrecondition (OPTIMIZATION_ENDED)."""
        name = OptimizationName.parse(request.name)

        def stop(current: Optimization) -> None:
            if current.state in ENDED or current.state == Optimization.DELETING:
                raise FailedPrecondition("OPTIMIZATION_ENDED", optimization=current.name)
            current.state, current.message = Optimization.CANCELLING, "its workloads are being stopped"

        async def write(claim: Claim) -> Optimization | None:
            return await self._optimizations.change(
                name, stop, guard=claim.guard, beside=lambda after: claim.record(after, str(name))
            )

        return await self._requests.once(request, Optimization, write)

    async def delete(self, request: pb.DeleteOptimizationRequest) -> Optimization:
        """Begins to take a search away. Raises NotFound, Aborted."""

        def end(current: Optimization) -> None:
            current.state, current.message = Optimization.DELETING, "its workloads are being removed"

        return await self._optimizations.change(OptimizationName.parse(request.name), end, etag=request.etag)

    async def _check_dataset(self, project: str, digest: str) -> None:
        try:
            await self._artifacts.size(project, digest)
        except NotFound as error:
            raise _invalid("optimization.dataset", f"{digest} is not stored; upload it first") from error


def _asked(model: ModelName, given: str) -> str:
    if "/" not in given:
        return f"{model}/versions/{given or LATEST}"
    name = VersionName.parse(given, "optimization.model_version")
    if name.parent != model:
        raise _invalid("optimization.model_version", f"must be a version of {model}")
    return given


def _new(name: OptimizationName, version: str, package: str, given: Optimization) -> Optimization:
    stamp = now()
    rule = OptimizationRule()
    rule.CopyFrom(given.rule)
    if not rule.HasField("max_accuracy_drop"):
        rule.max_accuracy_drop = DEFAULT_DROP
    return Optimization(
        name=str(name),
        uid=str(uuid.uuid4()),
        display_name=given.display_name,
        model_version=version,
        package=package,
        rule=rule,
        target=given.target or Optimization.LATENCY,
        variants=given.variants,
        dataset=given.dataset,
        seed=given.seed,
        epochs=given.epochs,
        pools=given.pools,
        queue=given.queue,
        priority=given.priority,
        cpu_milli=given.cpu_milli,
        memory_bytes=given.memory_bytes,
        device_models=given.device_models,
        state=Optimization.PENDING,
        message="its variants wait for a place",
        trace_context=traceparent(),
        create_time=stamp,
        update_time=stamp,
    )


def _variants(given: Optimization, package: ModelPackage) -> list[OptimizationVariant]:
    """The variants to try: those asked for, or all that suit; what the package alone rules out is told at once."""
    has_module = package.architecture is not None and WEIGHTS in package.files
    found = []
    for variant in chosen(given.variants, devices=given.device_models):
        problem = unsuitable(variant, has_module=has_module, has_training=True)
        if problem and not given.variants:
            continue
        state = OptimizationVariant.NOT_APPLICABLE if problem else OptimizationVariant.PENDING
        found.append(OptimizationVariant(variant=variant.name, state=state, message=problem))
    return found


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})
