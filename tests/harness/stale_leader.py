"""A scheduler that stands still, once, just before it writes that the workload $STOP_BEFORE has got a place.

`$UNFENCED` takes the fence away from it: it writes without proof that it still leads. For tests alone.
"""

import os
import signal
import sys
from collections.abc import Iterable, Mapping

from chassis.kv import Compare, created
from services.scheduler import keys
from services.scheduler.commit import Committer
from services.scheduler.planner import Decision

WORKLOAD = os.environ.get("STOP_BEFORE", "")
commit = Committer.commit


async def late(
    self: Committer,
    decisions: Iterable[Decision],
    guard: Compare,
    traces: Mapping[str, str],
    dropped: Iterable[str] = (),
) -> tuple[int, int]:
    """As `Committer.commit`, but late."""
    global WORKLOAD
    decisions = list(decisions)
    if WORKLOAD and any(each.placement and each.workload.endswith(f"/{WORKLOAD}") for each in decisions):
        WORKLOAD = ""
        os.kill(os.getpid(), signal.SIGSTOP)
    if os.environ.get("UNFENCED"):
        holder = await self._kv.get(keys.LEADER)  # whoever leads: true of everybody
        guard = created(keys.LEADER, holder.create_revision) if holder else guard
    return await commit(self, decisions, guard, traces, dropped)


Committer.commit = late  # type: ignore[method-assign]

if __name__ == "__main__":
    from chassis.app import run
    from services.scheduler.__main__ import build
    from services.scheduler.config import SchedulerConfig

    sys.argv[0] = "scheduler"
    run(SchedulerConfig, build)
