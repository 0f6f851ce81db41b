"""Takes every optimisation from its variants' workloads to a proposal; the leader does it, and any other may go on."""

from typing import Final, Protocol

from chassis.artifacts import ArtifactStore
from chassis.controller import Controller, WorkloadFeed
from chassis.election import Election
from chassis.kv import KV, Compare, Entry
from chassis.logs import logger
from chassis.resources import now
from chassis.telemetry import span
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1.optimization_pb2 import Optimization, OptimizationVariant
from lepton.names import OptimizationName
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.compress.figures import Report
from services.inference.compress.selection import Rule
from services.inference.conversions import Conversions
from services.inference.optimizations.keys import OPTIMIZATIONS, optimization_name_of, optimizations
from services.inference.optimizations.progress import ENDED, OVER, conclude, observe, rule_of, take
from services.inference.optimizations.workloads import reported, workload_name, workload_request

log = logger(__name__)
_OVER: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})


class Workloads(WorkloadFeed, Protocol):
    """What optimisations need of the scheduler."""

    async def create(self, request: CreateWorkloadRequest) -> Workload | None:
        """Creates a workload, or finds what has become of it: None when it is deleted already."""
        ...

    async def cancel(self, name: str) -> None:
        """Stops a workload."""
        ...

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended."""
        ...


class OptimizationReconciler:
    """Acts on optimisations as long as it leads."""

    def __init__(
        self,
        kv: KV,
        election: Election,
        workloads: Workloads,
        artifacts: ArtifactStore,
        conversions: Conversions,
    ) -> None:
        self._workloads, self._artifacts, self._conversions = workloads, artifacts, conversions
        self._optimizations = optimizations(kv)
        self._controller = Controller(
            kv,
            election,
            workloads,
            prefix=OPTIMIZATIONS,
            name_of=lambda key: str(optimization_name_of(key)),
            owns=_is_optimization,
            reconcile=self._reconcile,
        )

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        await self._controller.run()

    async def _reconcile(self, name: str, entry: Entry | None, guard: Compare) -> None:
        optimization = None if entry is None else self._optimizations.of(entry)
        if optimization is None or optimization.state in ENDED:
            await self._sweep(name)
        elif optimization.state == Optimization.DELETING:
            await self._sweep(name)
            if not self._controller.owned(name):
                await self._optimizations.delete(OptimizationName.parse(name), guard=[guard])
                log.info("optimization deleted", optimization=name)
        else:
            await self._advance(optimization, guard)

    async def _advance(self, optimization: Optimization, guard: Compare) -> None:
        is_stopping = optimization.state == Optimization.CANCELLING
        if is_stopping:
            await self._sweep(optimization.name, are_kept=True)
        seen: dict[str, tuple[Workload | None, Report | None]] = {}
        refused: dict[str, str] = {}
        for variant in optimization.variant_states:
            if variant.state not in OVER:
                try:
                    workload = await self._workload(optimization, variant, is_stopping)
                except FailedPrecondition as error:
                    if error.reason != "COMPLIANCE_VIOLATION":
                        raise
                    refused[variant.variant] = str(error)
                else:
                    seen[variant.variant] = workload, await self._report(optimization, workload)
        stamp = now()

        def advance(current: Optimization) -> None:
            if current.state in ENDED or current.state == Optimization.DELETING:
                return
            rule = rule_of(current)
            for variant in current.variant_states:
                if variant.variant in seen and variant.state not in OVER:
                    _look(variant, *seen[variant.variant], rule, is_stopping=is_stopping)
                elif variant.variant in refused and variant.state not in OVER:
                    variant.state, variant.message = OptimizationVariant.FAILED, refused[variant.variant]
            conclude(current, stamp)

        name = OptimizationName.parse(optimization.name)
        changed = await self._optimizations.change(name, advance, guard=[guard])
        if changed.state != optimization.state:
            log.info("optimization changed", optimization=changed.name, state=Optimization.State.Name(changed.state))

    async def _workload(
        self, optimization: Optimization, variant: OptimizationVariant, is_stopping: bool
    ) -> Workload | None:
        known = self._controller.workload(str(workload_name(optimization, variant.variant)))
        if known is not None or is_stopping:
            return known
        # A leader before us may have created it and died: the same request_id gets the same workload.
        request = workload_request(optimization, variant.variant, await self._conversions.of_optimization(optimization))
        with span("inference.optimize", parent=optimization.trace_context, variant=variant.variant):
            workload = await self._workloads.create(request)
        return None if workload is None else self._controller.remember(workload)

    async def _report(self, optimization: Optimization, workload: Workload | None) -> Report | None:
        digest = "" if workload is None else reported(workload)
        if not digest:
            return None
        project = OptimizationName.parse(optimization.name).project
        return Report.parse(await self._artifacts.read(project, digest))

    async def _sweep(self, name: str, *, are_kept: bool = False) -> None:
        """Ends every workload of an optimisation, then deletes it, unless they are kept for what they say."""
        for workload in self._controller.owned(name):
            try:
                if workload.state in _OVER:
                    if not are_kept:
                        await self._workloads.delete(workload.name)
                elif workload.state != Workload.CANCELLING:
                    await self._workloads.cancel(workload.name)
            except (NotFound, FailedPrecondition) as error:
                log.info("workload ends by itself", workload=workload.name, reason=error.reason)


def _look(
    variant: OptimizationVariant, workload: Workload | None, report: Report | None, rule: Rule, *, is_stopping: bool
) -> None:
    if report is not None:
        take(variant, report, rule)
    elif workload is None:
        variant.state = OptimizationVariant.CANCELLED if is_stopping else OptimizationVariant.FAILED
        variant.message = "it was not begun" if is_stopping else "its workload was deleted"
    elif workload.state == Workload.SUCCEEDED:
        variant.state, variant.message = OptimizationVariant.FAILED, "it ended without a report"
    else:
        observe(variant, workload)


def _is_optimization(name: str) -> bool:
    try:
        OptimizationName.parse(name)
    except InvalidArgument:
        return False
    return True
