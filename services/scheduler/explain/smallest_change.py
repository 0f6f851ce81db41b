"""The smallest change that would admit a waiting workload, each candidate proved by really running the planner.

The candidates in the order of their cost; the first that admits it is the answer:
 1. it is taken off its hold;
 2. its topology is a wish instead of a must, or is dropped;
 3. fewer slices of one group (as many as can be), then of all groups;
 4. less of one resource per slice (as much as can be);
 5. one pool more, or any; one node label less; any device model; one taint tolerated;
 6. a quota of its queue, or of one above it, raised as little as can be;
 7. a floating resource raised as little as can be;
 8. nodes like an existing one: as few as can be of each kind, then what adds the least hardware;
 9. one workload removed, the smallest that will do, of its own project only;
10. several of its own wishes at once: anywhere; anywhere with fewer slices, with one slice, with one slice of less;
11. several changes together, none of which can be left out.

A number that is proposed is minimal in its own dimension: one less of what is added, or one more of what it asks for,
was tried and did not do.
"""

from collections.abc import Iterator, Sequence

from services.scheduler.explain import given_up, more
from services.scheduler.explain.changes import Change, RemoveWorkload
from services.scheduler.explain.rehearsal import OutOfBudgetError
from services.scheduler.explain.together import together
from services.scheduler.explain.trial import Trial


def smallest_change(trial: Trial, removable: Sequence[str]) -> tuple[Change, ...]:
    """The first candidate that admits the workload; empty when none does, or when looking for one takes too long.

    `removable` are the workloads that may be proposed for removal, smallest first.
    """
    try:
        alone = next((change for change in _alone(trial, removable) if change is not None), None)
        return together(trial, removable) if alone is None else (alone,)
    except OutOfBudgetError:
        return ()


def _alone(trial: Trial, removable: Sequence[str]) -> Iterator[Change | None]:
    yield given_up.hold(trial)
    yield given_up.topology(trial)
    yield given_up.fewer_slices(trial, trial.workload, "")
    yield given_up.less_per_slice(trial, trial.workload, "")
    yield given_up.elsewhere(trial)
    yield more.quota(trial)
    yield more.floating(trial)
    yield more.nodes(trial)
    yield next((change for name in removable if trial.admits(change := RemoveWorkload(workload=name))), None)
    yield given_up.several(trial)
