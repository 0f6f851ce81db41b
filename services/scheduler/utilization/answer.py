"""A series as it is answered: by resource, with trend and bottleneck."""

from collections.abc import Sequence

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.scheduler.v1 import planning_service_pb2 as pb
from services.scheduler.utilization.amounts import MEASURED, RESOURCES
from services.scheduler.utilization.bottleneck import Use, bottleneck, sentence
from services.scheduler.utilization.history import Read


def answer(name: str, capacity: Sequence[float], read: Read) -> pb.GetUtilizationResponse:
    """The answer about one name; resources that it neither has nor uses are left out."""
    uses = [each for each in _uses(capacity, read) if each.capacity > 0 or each.allocated.any() or each.wanted.any()]
    found = bottleneck(uses)
    return pb.GetUtilizationResponse(
        series=[_series(each) for each in uses],
        bottleneck=found.resource if found is not None else "",
        message=sentence(name, uses),
    )


def _uses(capacity: Sequence[float], read: Read) -> list[Use]:
    """The columns by resource; nodes have none for what is wanted, and not every resource is measured."""
    values, nothing = read.values, np.zeros(len(read.times))
    count = len(RESOURCES)
    has_wanted = values.shape[1] > count + MEASURED
    return [
        Use(
            resource=resource,
            capacity=capacity[at],
            times=read.times,
            allocated=values[:, at],
            used=values[:, count + at] if at < MEASURED else nothing,
            wanted=values[:, count + MEASURED + at] if has_wanted else nothing,
        )
        for at, resource in enumerate(RESOURCES)
    ]


def _series(use: Use) -> pb.GetUtilizationResponse.Series:
    points = zip(use.times.tolist(), use.allocated.tolist(), use.used.tolist(), use.wanted.tolist(), strict=True)
    return pb.GetUtilizationResponse.Series(
        resource=use.resource,
        capacity=int(use.capacity),
        trend_per_hour=use.trend_per_hour,
        points=[
            pb.GetUtilizationResponse.Point(time=Timestamp(seconds=time), allocated=held, used=used, wanted=wanted)
            for time, held, used, wanted in points
        ],
    )
