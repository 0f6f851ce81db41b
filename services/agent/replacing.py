"""Which ranks are started again alone, in the same generation: workers of a parameter server, whom nobody waits for."""

from collections.abc import Callable
from typing import Final

from lepton.errors import InvalidArgument
from lepton.scheduler.v1 import workload_pb2
from lepton.train.plan import Plan
from services.agent.runner import Ending

AT_MOST: Final = 3  # a worker that is killed more often has a reason, and its gang's restart has a budget

Replaces = Callable[[Ending], bool]


def replacing(parallelism_json: str, rank: int, at_most: int = AT_MOST) -> Replaces:
    """Whether the rank is started again after this ending; asked once for each ending.

    Only a worker that a signal ended: one that failed by itself would fail again, and says why. Servers hold weights
    that are nowhere else, so their end is the generation's; so is a node's.
    """
    left = at_most if _is_worker(parallelism_json, rank) else 0

    def replaces(ending: Ending) -> bool:
        nonlocal left
        if ending.state != workload_pb2.Slice.FAILED or ending.exit_code >= 0 or not left:
            return False
        left -= 1
        return True

    return replaces


def _is_worker(parallelism_json: str, rank: int) -> bool:
    try:
        plan = Plan.parse(parallelism_json)
    except InvalidArgument:
        return False  # the rank will say so
    return plan.data == "parameter_server" and rank >= plan.servers
