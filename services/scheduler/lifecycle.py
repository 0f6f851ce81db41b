"""The life of a workload as data: which state may follow which, and what is final."""

from typing import Final

from services.scheduler.snapshot import SliceState, State

NEXT: Final[dict[State, frozenset[State]]] = {
    State.PENDING: frozenset({State.ASSIGNED, State.CANCELLING}),
    State.ASSIGNED: frozenset({State.PENDING, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    State.RUNNING: frozenset({State.PENDING, State.ASSIGNED, State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
ENDED: Final = frozenset(state for state, following in NEXT.items() if not following)
OVER: Final = ENDED | {State.CANCELLING}  # nothing can be wished for any more

FINAL: Final = frozenset({SliceState.SUCCEEDED, SliceState.FAILED, SliceState.STOPPED, SliceState.LOST})
UP: Final = frozenset({SliceState.RUNNING, SliceState.READY, SliceState.SUCCEEDED})

CHECK_RETRY_S: Final = 60.0  # after an admission check has said RETRY


def may_follow(before: State, after: State) -> bool:
    """Whether a workload may go from one state to the other; staying is always allowed."""
    return before is after or after in NEXT[before]


def backoff_s(restarts: int) -> float:
    """How long a workload waits before it is placed again: the first restart is immediate, then 1, 2, 4 .. 60 s."""
    return 0.0 if restarts <= 1 else min(60.0, 2.0 ** (restarts - 2))
