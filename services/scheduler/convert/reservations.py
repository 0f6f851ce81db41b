"""Reservations: between the stored document and the planner's value."""

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.internal.v1 import ledger_pb2
from lepton.scheduler.v1 import workload_pb2
from services.scheduler.convert.moments import Moment
from services.scheduler.convert.nodes import demand_of
from services.scheduler.convert.slices import slice_of, slice_to_proto
from services.scheduler.snapshot import Reservation


def reservation_of(reservation: ledger_pb2.Reservation, moment: Moment) -> Reservation:
    """A reservation as the planner sees it."""
    return Reservation(
        workload=reservation.workload,
        pool=reservation.pool,
        slices=tuple(slice_of(each) for each in reservation.slices),
        demands={name: demand_of(resources) for name, resources in reservation.resources.items()},
        victims=tuple((each.workload, each.generation) for each in reservation.victims),
        expires_at=moment(reservation.create_time) + reservation.lifetime_s,
    )


def reservation_to_proto(
    reservation: Reservation, workload: workload_pb2.Workload, now: Timestamp, lifetime_s: float
) -> ledger_pb2.Reservation:
    """A reservation as it is stored."""
    return ledger_pb2.Reservation(
        workload=reservation.workload,
        workload_uid=workload.uid,
        pool=reservation.pool,
        slices=[slice_to_proto(each) for each in reservation.slices],
        resources={group.name: group.resources for group in workload.groups},
        victims=[
            ledger_pb2.Reservation.Victim(workload=name, generation=generation)
            for name, generation in reservation.victims
        ],
        create_time=now,
        lifetime_s=lifetime_s,
    )
