"""Takes every batch prediction from its dataset to a result: plan, array of shards, progress, manifest."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from chassis.artifacts import ArtifactStore
from chassis.controller import Controller, WorkloadFeed
from chassis.election import Election
from chassis.kv import KV, Compare, Entry
from chassis.logs import logger
from chassis.resources import now
from chassis.telemetry import span
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.names import BatchPredictionName
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.batch import states
from services.inference.batch.documents import Plan, ShardReport, manifest
from services.inference.batch.reports import Reports, clear
from services.inference.batch.states import ENDED, NEXT, area, move, observe, planned
from services.inference.batch.store import BATCH_PREDICTIONS, batch_predictions, name_of
from services.inference.conversions import Conversions
from services.inference.registry import Registry

log = logger(__name__)
_LOOK_S: Final = 0.5
"""How often the shards' reports are looked for while they run."""
_OVER: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})
_STOPS: Final = frozenset({BatchPrediction.CANCELLING, BatchPrediction.DELETING})
_FATAL: Final = frozenset({"VERSION_NOT_FOUND", "ARTIFACT_NOT_FOUND", "MODEL_NOT_FOUND", "COMPLIANCE_VIOLATION"})


class Workloads(WorkloadFeed, Protocol):
    """What is needed of the scheduler."""

    async def create(self, request: CreateWorkloadRequest) -> Workload | None:
        """Creates a workload, or finds what has become of it: None when it is deleted already."""
        ...

    async def cancel(self, name: str) -> None:
        """Stops a workload."""
        ...

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended."""
        ...


class BatchReconciler:
    """Acts on batch predictions as long as it leads. What it remembers of reports another can read again."""

    def __init__(
        self,
        kv: KV,
        election: Election,
        workloads: Workloads,
        registry: Registry,
        artifacts: ArtifactStore,
        conversions: Conversions | None = None,
    ) -> None:
        self._workloads, self._registry, self._artifacts = workloads, registry, artifacts
        self._conversions = conversions or Conversions(registry)
        self._batches = batch_predictions(kv)
        self._reports: dict[str, Reports] = {}
        self._controller = Controller(
            kv,
            election,
            workloads,
            prefix=BATCH_PREDICTIONS,
            name_of=lambda key: str(name_of(key)),
            owns=_is_batch,
            reconcile=self._reconcile,
        )

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        await self._controller.run()

    async def _reconcile(self, name: str, entry: Entry | None, guard: Compare) -> None:
        batch = None if entry is None else self._batches.of(entry)
        if batch is None or batch.state in ENDED | _STOPS:
            await self._sweep(name)
        if batch is None or batch.state in ENDED:
            self._reports.pop(batch.uid if batch is not None else "", None)
            return
        try:
            if batch.state in _STOPS:
                await self._stop(batch, guard)
            elif batch.state == BatchPrediction.PREPARING:
                await self._prepare(batch, guard)
            else:
                await self._run(batch, guard)
        except InvalidArgument as error:
            await self._end(batch, BatchPrediction.FAILED, str(error), guard)  # the next time it would be the same
        except (NotFound, FailedPrecondition) as error:
            if error.reason not in _FATAL:
                raise
            await self._end(batch, BatchPrediction.FAILED, str(error), guard)

    async def _prepare(self, batch: BatchPrediction, guard: Compare) -> None:
        name = BatchPredictionName.parse(batch.name)
        workload = self._controller.workload(str(states.prepare_name(batch)))
        if workload is None:
            version = await self._registry.get_version(batch.model_version)
            size = await self._artifacts.size(name.project, batch.input.artifact)
            request = states.prepare_request(batch, version.package, size, await self._conversions.of_batch(batch))
            workload = await self._create(batch, request, "inference.plan_batch")
        if workload is None:
            await self._end(batch, BatchPrediction.FAILED, "the workload of its preparation was deleted", guard)
            return
        if plan := planned(workload):
            await self._start(batch, plan, guard)
        elif workload.state in _OVER:
            problem = f"it could not be prepared: {workload.message or 'no plan was made'}"
            await self._end(batch, BatchPrediction.FAILED, problem, guard)

    async def _start(self, batch: BatchPrediction, digest: str, guard: Compare) -> None:
        plan = Plan.parse(await self._artifacts.read(BatchPredictionName.parse(batch.name).project, digest))

        def start(current: BatchPrediction) -> None:
            if move(current, BatchPrediction.RUNNING, "its shards wait for places", now()):
                current.plan = digest
                observe(current, plan, {}, None, now())

        await self._change(batch, start, guard)

    async def _run(self, batch: BatchPrediction, guard: Compare) -> None:
        reports = await self._reports_of(batch)
        workload = self._controller.workload(str(states.run_name(batch)))
        if workload is None:
            request = states.run_request(batch, reports.plan)
            workload = await self._create(batch, request, "inference.run_batch")
        known = await reports.known()
        bad = sum(len(report.bad) for report in known.values())
        if bad > batch.max_bad_rows:
            first = min((row for report in known.values() for row in report.bad), key=lambda row: row.row)
            told = f"{bad} bad rows, {batch.max_bad_rows} are tolerated; row {first.row} is {first.reason}"
            await self._finish(batch, BatchPrediction.FAILED, f"{told}: {first.message}", reports.plan, known, guard)
        elif len(known) == len(reports.plan.shards):
            message = f"{bad} bad rows" if bad else ""
            await self._finish(batch, BatchPrediction.SUCCEEDED, message, reports.plan, known, guard)
        elif workload is None:
            problem = "the workload of its shards was deleted"
            await self._finish(batch, BatchPrediction.FAILED, problem, reports.plan, known, guard)
        elif workload.state in _OVER:
            problem = (
                f"its shards have ended: {workload.message or Workload.State.Name(workload.state)}{_why(workload)}"
            )
            await self._finish(batch, BatchPrediction.FAILED, problem, reports.plan, known, guard)
        else:
            await self._tell(batch, reports.plan, known, workload, guard)
            self._controller.look_again(batch.name, _LOOK_S)

    async def _tell(
        self,
        batch: BatchPrediction,
        plan: Plan,
        known: Mapping[int, ShardReport],
        workload: Workload,
        guard: Compare,
    ) -> None:
        def tell(current: BatchPrediction) -> None:
            if current.state == BatchPrediction.RUNNING:
                current.message = workload.message
                observe(current, plan, known, workload, now())

        told = BatchPrediction()
        told.CopyFrom(batch)
        tell(told)
        if told != batch:
            await self._change(batch, tell, guard)

    async def _finish(
        self,
        batch: BatchPrediction,
        state: "BatchPrediction.State.ValueType",
        message: str,
        plan: Plan,
        known: Mapping[int, ShardReport],
        guard: Compare,
    ) -> None:
        """Writes the manifest of what is done, and with it the end."""
        digest = await self._manifest(batch, plan, known) if known else ""
        stamp, workload = now(), self._controller.workload(str(states.run_name(batch)))

        def finish(current: BatchPrediction) -> None:
            if state not in NEXT[current.state]:
                return
            observe(current, plan, known, workload, stamp)
            move(current, state, message, stamp)
            current.manifest = digest

        await self._change(batch, finish, guard)

    async def _manifest(self, batch: BatchPrediction, plan: Plan, known: Mapping[int, ShardReport]) -> str:
        version = await self._registry.get_version(batch.model_version)
        facts = {
            "batch_prediction": batch.name,
            "model_version": batch.model_version,
            "package": version.package,
            "dataset": batch.input.artifact,
            "outputs": [tensor.to_json() for tensor in plan.signature.outputs],
        }
        is_complete = len(known) == len(plan.shards)
        data = manifest(facts, plan.rows, plan.output, list(known.values()), complete=is_complete)
        return await self._artifacts.put_bytes(BatchPredictionName.parse(batch.name).project, data)

    async def _stop(self, batch: BatchPrediction, guard: Compare) -> None:
        if self._controller.owned(batch.name):
            return
        name = BatchPredictionName.parse(batch.name)
        if batch.state == BatchPrediction.DELETING:
            await clear(self._artifacts, name.project, area(batch))
            await self._batches.delete(name, guard=[guard])
            log.info("batch prediction deleted", batch_prediction=batch.name)
        elif batch.plan:
            reports = await self._reports_of(batch)
            known = await reports.known()
            await self._finish(batch, BatchPrediction.CANCELLED, "cancelled", reports.plan, known, guard)
        else:
            await self._end(batch, BatchPrediction.CANCELLED, "cancelled", guard)

    async def _reports_of(self, batch: BatchPrediction) -> Reports:
        if batch.uid not in self._reports:
            project = BatchPredictionName.parse(batch.name).project
            plan = Plan.parse(await self._artifacts.read(project, batch.plan))
            self._reports[batch.uid] = Reports(self._artifacts, project, area(batch), plan)
        return self._reports[batch.uid]

    async def _end(
        self, batch: BatchPrediction, state: "BatchPrediction.State.ValueType", message: str, guard: Compare
    ) -> None:
        def end(current: BatchPrediction) -> None:
            move(current, state, message, now())

        await self._change(batch, end, guard)

    async def _change(self, batch: BatchPrediction, change: Callable[[BatchPrediction], None], guard: Compare) -> None:
        changed = await self._batches.change(BatchPredictionName.parse(batch.name), change, guard=[guard])
        if changed.state != batch.state:
            state = BatchPrediction.State.Name(changed.state)
            log.info("batch prediction changed", batch_prediction=batch.name, state=state, why=changed.message)

    async def _create(self, batch: BatchPrediction, request: CreateWorkloadRequest, step: str) -> Workload | None:
        # A leader before us may have created it and died: the same request_id gets the same workload.
        with span(step, parent=batch.trace_context, batch_prediction=batch.name):
            workload = await self._workloads.create(request)
        return None if workload is None else self._controller.remember(workload)

    async def _sweep(self, name: str) -> None:
        """Stops what runs for a batch prediction that has ended, then deletes it."""
        for workload in self._controller.owned(name):
            try:
                if workload.state in _OVER:
                    await self._workloads.delete(workload.name)
                elif workload.state != Workload.CANCELLING:
                    await self._workloads.cancel(workload.name)
            except (NotFound, FailedPrecondition) as error:
                log.info("workload ends by itself", workload=workload.name, reason=error.reason)


def _why(workload: Workload) -> str:
    """The first task that failed for good, in words."""
    failure = next(iter(workload.array.failures), None)
    return "" if failure is None else f"; shard {failure.index}: {failure.message}"


def _is_batch(name: str) -> bool:
    try:
        BatchPredictionName.parse(name)
    except InvalidArgument:
        return False
    return True
