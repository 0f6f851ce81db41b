"""What a batch prediction asks of the scheduler, and where it stands by what was heard of that; pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.batch_prediction_pb2 import BatchInput, BatchPrediction, BatchProgress
from lepton.names import BatchPredictionName, WorkloadName
from lepton.scheduler.v1.program_pb2 import ProcessProgram, Program, TorchProgram
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import SliceGroup, TaskArray, Workload
from services.inference.batch.documents import Plan, ShardReport
from services.inference.workload_creation import creation

PREPARE_MODULE: Final = "services.inference.batch.prepare"
SHARD_MODULE: Final = "services.inference.batch.shard"
PLAN: Final = "plan"
NODE_PYTHON: Final = "lepton-python"
"""Stands for the interpreter that a node's own Lepton runs in; the agent puts it in."""
DEFAULT_BATCH: Final = 64
DEFAULT_RETRIES: Final = 3
DEFAULT_CPU_MILLI: Final = 500
DEFAULT_MEMORY_BYTES: Final = 1 << 30
_PREPARE_MEMORY_BYTES: Final = 2 << 30
_PREPARE_RESTARTS: Final = 2
_SHOWN_BAD_ROWS: Final = 20

State = BatchPrediction.State
NEXT: Final[Mapping["BatchPrediction.State.ValueType", frozenset["BatchPrediction.State.ValueType"]]] = {
    State.PREPARING: frozenset({State.RUNNING, State.FAILED, State.CANCELLING, State.DELETING}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLING, State.DELETING}),
    State.CANCELLING: frozenset({State.CANCELLED, State.DELETING}),
    State.SUCCEEDED: frozenset({State.DELETING}),
    State.FAILED: frozenset({State.DELETING}),
    State.CANCELLED: frozenset({State.DELETING}),
    State.DELETING: frozenset(),
}
"""Where a batch prediction may go from where it is."""
ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


def area(batch: BatchPrediction) -> str:
    """Where the reports of its shards lie in the artifact store."""
    return f"batches/{batch.uid}"


def prepare_name(batch: BatchPrediction) -> WorkloadName:
    """The workload that divides its dataset."""
    return _workload_name(batch, "plan")


def run_name(batch: BatchPrediction) -> WorkloadName:
    """The workload that runs its shards."""
    return _workload_name(batch, "batch")


def prepare_request(
    batch: BatchPrediction, package: str, dataset_bytes: int, pools: Sequence[str]
) -> CreateWorkloadRequest:
    """Asks for the division of the dataset; a repeat asks for the same one."""
    name = prepare_name(batch)
    spec = {
        "project": name.project,
        "package": package,
        "dataset": batch.input.artifact,
        "form": BatchInput.Format.Name(batch.input.format),
        "columns": list(batch.input.columns),
        "output": "JSONL" if batch.output_format == BatchPrediction.JSONL else "NPZ",
        "workers": batch.max_workers,
        "shard_rows": batch.shard_rows,
        "batch_size": batch.batch_size or DEFAULT_BATCH,
        "allow_missing": batch.input.allow_missing,
    }
    group = SliceGroup(
        name="plan",
        min_count=1,
        # The dataset as it is read, as arrays, and a part of it being written.
        resources=Resources(cpu_milli=500, memory_bytes=_PREPARE_MEMORY_BYTES + 3 * dataset_bytes),
        program=Program(torch=TorchProgram(module=PREPARE_MODULE, spec_json=json.dumps(spec, sort_keys=True))),
    )
    return creation(name, _workload(batch, group, pools, _PREPARE_RESTARTS))


def run_request(batch: BatchPrediction, plan: Plan) -> CreateWorkloadRequest:
    """Asks for the array of shards, at most `max_workers` at once; a repeat asks for the same one."""
    cpu_milli = batch.cpu_milli or DEFAULT_CPU_MILLI
    argv = [
        NODE_PYTHON, "-P", "-m", SHARD_MODULE,
        "--plan", batch.plan, "--area", area(batch), "--threads", str(max(1, cpu_milli // 1000)),
    ]  # fmt: skip
    group = SliceGroup(
        name="shard",
        min_count=1,
        max_count=min(batch.max_workers, len(plan.shards)),
        resources=Resources(cpu_milli=cpu_milli, memory_bytes=batch.memory_bytes or DEFAULT_MEMORY_BYTES),
        program=Program(process=ProcessProgram(argv=argv, environment={"OMP_NUM_THREADS": "1"})),
    )
    retries = DEFAULT_RETRIES if batch.max_retries == 0 else max(batch.max_retries, 0)
    workload = _workload(batch, group, batch.pools, retries)
    workload.array.CopyFrom(TaskArray(task_count=len(plan.shards)))
    return creation(run_name(batch), workload)


def planned(workload: Workload) -> str:
    """The digest of the plan that a preparation has made; empty while it has not."""
    if workload.state != Workload.SUCCEEDED:
        return ""
    return next((piece.outputs[PLAN] for piece in workload.slices if PLAN in piece.outputs), "")


def move(batch: BatchPrediction, state: "BatchPrediction.State.ValueType", message: str, stamp: Timestamp) -> bool:
    """Brings it to a state, if it may go there from where it is; whether it did."""
    if state not in NEXT[batch.state]:
        return False
    batch.state, batch.message = state, message
    if state in ENDED:
        batch.end_time.CopyFrom(stamp)
        batch.progress.workers = 0
        batch.progress.eta_s = 0
    return True


def observe(
    batch: BatchPrediction, plan: Plan, reports: Mapping[int, ShardReport], workload: Workload | None, stamp: Timestamp
) -> None:
    """Brings its progress to what is known of its shards."""
    if workload is not None:
        batch.workload = workload.name
        if not batch.HasField("start_time") and (workload.HasField("start_time") or reports):
            batch.start_time.CopyFrom(workload.start_time if workload.HasField("start_time") else stamp)
    done = sum(report.rows for report in reports.values())
    bad = [row for index in sorted(reports) for row in reports[index].bad]
    rate = _rate(batch, done, stamp)
    batch.progress.CopyFrom(
        BatchProgress(
            rows=plan.rows,
            rows_done=done,
            bad_rows=len(bad),
            rows_per_s=rate,
            eta_s=(plan.rows - done) / rate if rate > 0 else 0.0,
            shards=len(plan.shards),
            shards_done=len(reports),
            workers=workload.array.running if workload is not None else 0,
        )
    )
    del batch.bad_rows[:]
    batch.bad_rows.extend(row.to_proto() for row in bad[:_SHOWN_BAD_ROWS])


def _rate(batch: BatchPrediction, done: int, stamp: Timestamp) -> float:
    if not batch.HasField("start_time") or not done:
        return 0.0
    if done == batch.progress.rows_done:
        return batch.progress.rows_per_s  # nothing new: not slower every time that it is looked at
    return done / max((stamp.ToNanoseconds() - batch.start_time.ToNanoseconds()) / 1e9, 1e-3)


def _workload(batch: BatchPrediction, group: SliceGroup, pools: Sequence[str], restarts: int) -> Workload:
    return Workload(
        owner=batch.name,
        kind=Workload.BATCH,
        priority=batch.priority,
        pools=pools,
        groups=[group],
        max_restarts=restarts,
        trace_context=batch.trace_context,
        queue=batch.queue,
    )


def _workload_name(batch: BatchPrediction, purpose: str) -> WorkloadName:
    name = BatchPredictionName.parse(batch.name)
    return WorkloadName(name.project, f"{purpose}-{name.batch_prediction[:46].rstrip('-')}-{batch.uid[:8]}")
