"""Ranks that are slower than the others: their own work for a step against the median of all, for several reports."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from lepton.internal.v1.run_report_pb2 import RankPace, ReportRunRequest
from lepton.trainer.v1.job_pb2 import Straggler

SLOW: Final = 1.5  # times the median
_RECOVERED: Final = 1.25  # below which a straggler is none any more
_REPORTS: Final = 3  # in a row
_FRESH_S: Final = 30.0
_JOBS: Final = 4096
_MOST: Final = 16  # that are named


@dataclass(slots=True)
class _Rank:
    at_s: float
    pace: RankPace
    slow: int = 0  # reports in a row
    is_named: bool = False


@dataclass(slots=True)
class _Gang:
    generation: int
    ranks: dict[int, _Rank] = field(default_factory=dict)
    named: Sequence[Straggler] = ()


class Stragglers:
    """What the paces of all jobs say, in memory: after a restart it is known again after a few reports."""

    def __init__(self) -> None:
        self._gangs: OrderedDict[str, _Gang] = OrderedDict()

    def hear(self, job_uid: str, batch: ReportRunRequest) -> Sequence[Straggler] | None:
        """Takes in the paces of a batch; those who straggle now, the slowest first, if that has changed."""
        paces = [event for event in batch.events if event.WhichOneof("event") == "pace" and event.pace.busy_s > 0]
        if not paces:
            return None
        gang = self._gang(job_uid, batch.generation)
        if batch.generation < gang.generation:
            return None
        for event in paces:
            rank = gang.ranks.setdefault(batch.rank, _Rank(0.0, event.pace))
            rank.at_s, rank.pace = event.time.ToMicroseconds() / 1e6, event.pace
            _judge(rank, _usual_s(gang.ranks, rank.at_s))
        named = _named(gang.ranks)
        if [(each.rank, round(each.slowdown)) for each in named] == [
            (each.rank, round(each.slowdown)) for each in gang.named
        ]:
            return None
        gang.named = named
        return named

    def _gang(self, job_uid: str, generation: int) -> _Gang:
        gang = self._gangs.get(job_uid)
        if gang is None or gang.generation < generation:
            gang = self._gangs[job_uid] = _Gang(generation)
        self._gangs.move_to_end(job_uid)
        while len(self._gangs) > _JOBS:
            self._gangs.popitem(last=False)
        return gang


def _usual_s(ranks: Mapping[int, _Rank], now_s: float) -> float:
    """The median time of a step's own work; 0 = there is nobody to compare with."""
    fresh = [rank.pace.busy_s for rank in ranks.values() if now_s - rank.at_s <= _FRESH_S]
    # Of two the median lies between them: the faster is what is usual then.
    return 0.0 if len(fresh) < 2 else min(fresh) if len(fresh) == 2 else median(fresh)


def _judge(rank: _Rank, usual_s: float) -> None:
    slowdown = rank.pace.busy_s / usual_s if usual_s else 1.0
    rank.slow = rank.slow + 1 if slowdown > SLOW else 0
    rank.is_named = rank.slow >= _REPORTS or (rank.is_named and slowdown > _RECOVERED)


def _named(ranks: Mapping[int, _Rank]) -> list[Straggler]:
    newest_s = max(rank.at_s for rank in ranks.values())
    usual_s = _usual_s(ranks, newest_s)
    found = [
        Straggler(rank=number, node=rank.pace.node, slowdown=round(rank.pace.busy_s / usual_s, 2))
        for number, rank in ranks.items()
        if rank.is_named and usual_s
    ]
    return sorted(found, key=lambda each: (-each.slowdown, each.rank))[:_MOST]
