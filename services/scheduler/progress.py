"""What workloads tell of how they get on: their newest checkpoint, and how fast they are with so many slices."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.scheduler.v1 import scheduler_service_pb2 as service
from lepton.scheduler.v1 import workload_pb2
from services.scheduler.lifecycle import OVER
from services.scheduler.snapshot import State

_NEW: Final = 0.3  # of a mean that follows what is measured: the weight of the newest
_NEWS: Final = 0.02  # a smaller change of the mean is not worth a write
_KEPT: Final = 64  # sizes of which the throughput is kept


def with_progress(
    workload: workload_pb2.Workload, request: service.ReportWorkloadProgressRequest, now: Timestamp
) -> workload_pb2.Workload | None:
    """The workload with what was reported; None when it is no news, or about a generation that is past.

    A checkpoint from the future, by a clock that is fast, is one of now: else later ones would be no news.
    """
    if State(workload.state) in OVER or request.generation != workload.generation:
        return None
    is_news = False
    if request.HasField("checkpoint_time"):
        saved_ns = min(request.checkpoint_time.ToNanoseconds(), now.ToNanoseconds())
        if not workload.HasField("checkpoint_time") or workload.checkpoint_time.ToNanoseconds() < saved_ns:
            workload.checkpoint_time.FromNanoseconds(saved_ns)
            is_news = True
    size = len(workload.slices)
    if request.samples_per_s and size:
        is_news = _measure(workload, size, request.samples_per_s) or is_news
    return workload if is_news else None


def _measure(workload: workload_pb2.Workload, size: int, samples_per_s: float) -> bool:
    before = workload.throughput.get(size)
    mean = samples_per_s if before is None else (1 - _NEW) * before + _NEW * samples_per_s
    if before is not None and abs(mean - before) <= _NEWS * before:
        return False
    if before is None and len(workload.throughput) >= _KEPT:
        return False
    workload.throughput[size] = mean
    return True
