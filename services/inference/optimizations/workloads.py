"""What an optimisation asks of the scheduler: a batch workload for each variant; pure."""

import json
import uuid
from typing import Final

from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.names import OptimizationName, WorkloadName
from lepton.scheduler.v1.program_pb2 import Program, TorchProgram
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import SliceGroup, Workload
from services.inference.compress.variants import VARIANTS

MODULE: Final = "services.inference.compress.optimise"
REPORT: Final = "report"
"""The name under which a variant leaves its report's digest in its slice's outputs."""
DEFAULT_EPOCHS: Final = 12
_CPU_MILLI: Final = 1000
_MEMORY_BYTES: Final = 2 << 30
_WHOLE_DEVICE: Final = 1000
_RESTARTS: Final = 2


def workload_name(optimization: Optimization, variant: str) -> WorkloadName:
    """The workload that makes and measures a variant."""
    name = OptimizationName.parse(optimization.name)
    short = f"{name.optimization[:20].rstrip('-')}-{optimization.uid[:8]}"
    return WorkloadName(name.project, f"opt-{short}-{variant}")


def workload_request(optimization: Optimization, variant: str, pools: tuple[str, ...]) -> CreateWorkloadRequest:
    """Asks for a variant; a repeat asks for the same one, and creates nothing twice."""
    name = workload_name(optimization, variant)
    spec = {
        "project": name.project,
        "package": optimization.package,
        "variant": variant,
        "dataset": optimization.dataset,
        "seed": optimization.seed,
        "epochs": optimization.epochs or DEFAULT_EPOCHS,
        "max_accuracy_drop": optimization.rule.max_accuracy_drop,
        "parent": optimization.model_version,
        "optimization": optimization.name,
    }
    needs_device = VARIANTS[variant].needs_device
    resources = Resources(
        cpu_milli=optimization.cpu_milli or _CPU_MILLI,
        memory_bytes=optimization.memory_bytes or _MEMORY_BYTES,
        device_milli=_WHOLE_DEVICE if needs_device else 0,
        device_models=optimization.device_models if needs_device else (),
    )
    group = SliceGroup(
        name="variant",
        min_count=1,
        resources=resources,
        program=Program(torch=TorchProgram(module=MODULE, spec_json=json.dumps(spec, sort_keys=True))),
    )
    workload = Workload(
        owner=optimization.name,
        kind=Workload.BATCH,
        priority=optimization.priority,
        pools=pools,
        groups=[group],
        max_restarts=_RESTARTS,
        trace_context=optimization.trace_context,
        queue=optimization.queue,
    )
    return CreateWorkloadRequest(
        parent=str(name.parent),
        workload_id=name.workload,
        workload=workload,
        request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, str(name))),
    )


def reported(workload: Workload) -> str:
    """The digest of the report that a variant has left; empty while it has not."""
    if workload.state != Workload.SUCCEEDED:
        return ""
    return next((piece.outputs[REPORT] for piece in workload.slices if REPORT in piece.outputs), "")
