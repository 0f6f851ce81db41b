"""Ranks whose own work for a step takes longer than the others'."""

from lepton.internal.v1.run_report_pb2 import RankPace, ReportRunRequest, RunEvent
from lepton.trainer.v1.job_pb2 import Straggler
from services.trainer.stragglers import Stragglers


def batch(rank: int, busy_s: float, at_s: float, generation: int = 1) -> ReportRunRequest:
    event = RunEvent(pace=RankPace(step=1, step_s=1.0, busy_s=busy_s, node=f"n{rank}"))
    event.time.FromMicroseconds(int(at_s * 1e6))
    return ReportRunRequest(generation=generation, rank=rank, events=[event])


def hear(stragglers: Stragglers, rounds: int, *busy_s: float, begin: int = 0) -> list[list[Straggler]]:
    """So many rounds of reports of all ranks; what was told of them."""
    told = []
    for turn in range(begin, begin + rounds):
        for rank, each in enumerate(busy_s):
            found = stragglers.hear("uid", batch(rank, each, 2.0 * turn + rank / 10))
            if found is not None:
                told.append(list(found))
    return told


def test_a_rank_that_is_slow_for_several_reports_is_named_with_its_node() -> None:
    told = hear(Stragglers(), 5, 0.1, 0.1, 0.25, 0.1)
    assert told == [[Straggler(rank=2, node="n2", slowdown=2.5)]]


def test_one_slow_report_is_nothing() -> None:
    stragglers = Stragglers()
    assert hear(stragglers, 2, 0.1, 0.1, 0.5) == []
    assert hear(stragglers, 5, 0.1, 0.1, 0.1, begin=2) == []


def test_it_is_forgotten_when_it_has_recovered_and_not_before() -> None:
    stragglers = Stragglers()
    assert hear(stragglers, 4, 0.1, 0.1, 0.3)
    assert hear(stragglers, 2, 0.1, 0.1, 0.14, begin=4)[-1] == [Straggler(rank=2, node="n2", slowdown=1.4)]
    assert hear(stragglers, 2, 0.1, 0.1, 0.1, begin=6) == [[]]


def test_of_two_the_slower_is_named_and_one_alone_never() -> None:
    assert hear(Stragglers(), 4, 0.1, 0.3)[-1][0].rank == 1
    assert hear(Stragglers(), 9, 0.3) == []


def test_equal_ranks_are_never_named_however_slow() -> None:
    assert hear(Stragglers(), 9, 5.0, 5.1, 5.2, 4.9) == []


def test_a_rank_whose_own_time_is_not_known_is_not_compared() -> None:
    assert hear(Stragglers(), 9, 0.1, 0.0, 0.0) == []


def test_another_generation_begins_anew_and_an_old_one_is_not_heard() -> None:
    stragglers = Stragglers()
    assert hear(stragglers, 4, 0.1, 0.1, 0.3)
    assert stragglers.hear("uid", batch(0, 0.1, 9.0, generation=2)) is None
    assert stragglers.hear("uid", batch(2, 9.0, 9.1, generation=1)) is None
