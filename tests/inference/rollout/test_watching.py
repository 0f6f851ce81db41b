"""What is found out about a rollout beside the leader's work; the comparer and the gateway do as they are told."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.inference.v1.rollout_pb2 import GateVerdict, PromotionGate, RolloutStatus, Strategy
from services.inference.comparing import Side, Unanswered
from services.inference.envoy.load import Load
from services.inference.rollout.comparison import Comparison, Pair
from services.inference.watching import RolloutWatch
from tests.harness.clock import ManualClock

SIDES = (Side(revision=DeploymentRevision(), endpoint="a"), Side(revision=DeploymentRevision(), endpoint="b"))


def pairs(count: int, *, same: bool) -> Comparison:
    old, new = np.asarray([[1.0, 0.0]]), np.asarray([[1.0, 0.0] if same else [0.0, 1.0]])
    return Comparison(pairs=[Pair(stable={"y": old}, candidate={"y": new}, is_live=True)] * count)


class Comparer:
    """Finds what it is told to have found; a finding that is an error is raised."""

    def __init__(
        self, *findings: Comparison | Exception, live: Comparison | None = None, more: Comparison | None = None
    ) -> None:
        self.findings, self.found_live, self.asked = list(findings), live or pairs(0, same=True), 0
        self.found_more = more or self.found_live
        self.looked: list[int] = []

    async def whole(self, model: str, stable: Side, candidate: Side, live: int) -> Comparison:
        self.asked += 1
        found = self.findings.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def live(self, model: str, stable: Side, candidate: Side, live: int) -> Comparison:
        self.looked.append(live)
        return self.found_live if live < 100 else self.found_more


class Gateway:
    """Counts what the test says."""

    def __init__(self) -> None:
        self.loads: dict[tuple[str, int], Load] = {}
        self.error: Exception | None = None

    async def load(self) -> Mapping[tuple[str, int], Load]:
        if self.error is not None:
            raise self.error
        return dict(self.loads)


class World:
    """A watch, its clock, and the deployment that is looked at."""

    def __init__(self, comparer: Comparer) -> None:
        self.clock, self.gateway, self.comparer = ManualClock(), Gateway(), comparer
        given: Any = comparer
        self.watch = RolloutWatch(given, self.gateway, self.clock)
        status = RolloutStatus(state=RolloutStatus.PROGRESSING, stable_revision=1, candidate_revision=2)
        strategy = Strategy(gate=PromotionGate())
        self.deployment = Deployment(name="d", model_name="p.d", rollout=status, strategy=strategy)

    async def look(self, sides: Any = SIDES) -> Any:
        found = await self.watch.evidence(self.deployment, sides)
        for _ in range(5):
            await asyncio.sleep(0)
        return found


async def test_a_comparison_is_made_once_for_each_step_that_asks_for_it() -> None:
    world = World(Comparer(pairs(40, same=True), pairs(40, same=False)))
    assert (await world.look()).verdict is None
    assert world.comparer.asked == 0
    world.deployment.rollout.comparing = True
    assert (await world.look(None)).verdict is None
    assert world.comparer.asked == 0, "one side has no replica"
    await world.look()
    await world.clock.advance(10)
    verdict = (await world.look()).verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.step, verdict.candidate_revision) == (GateVerdict.PASSED, 0, 2)
    world.deployment.rollout.step = 1
    assert (await world.look()).verdict is None, "the verdict of another step says nothing"
    await world.clock.advance(10)
    refused = (await world.look()).verdict
    assert refused is not None
    assert (refused.outcome, refused.step) == (GateVerdict.REFUSED, 1)
    assert world.comparer.asked == 2


async def test_what_could_not_be_compared_is_tried_again_and_said() -> None:
    world = World(Comparer(Unanswered("UNAVAILABLE"), pairs(40, same=True)))
    world.deployment.rollout.comparing = True
    await world.look()
    waits = await world.look()
    assert (waits.verdict, waits.problem, world.comparer.asked) == (None, "UNAVAILABLE", 1)
    await world.clock.advance(2)
    await world.look()
    assert (await world.look()).verdict is not None


async def test_live_answers_that_drift_are_harm_unless_nothing_is_taken_back() -> None:
    world = World(Comparer(live=pairs(40, same=False)))
    await world.look()
    assert "drifted" in (await world.look()).harm
    world = World(Comparer(live=pairs(40, same=False)))
    world.deployment.strategy.rollback.disabled = True
    await world.look()
    assert (await world.look()).harm == ""
    world = World(Comparer(live=pairs(40, same=True)))
    await world.look()
    assert (await world.look()).harm == ""


async def test_a_few_answers_that_differ_by_chance_end_no_rollout() -> None:
    """A good model was taken back: 30 of 32 live answers had the same label, of which 95 % must."""
    few = Comparison(pairs=[*pairs(30, same=True).pairs, *pairs(2, same=False).pairs])
    many = Comparison(pairs=[*pairs(500, same=True).pairs, *pairs(12, same=False).pairs])
    worse = Comparison(pairs=[*pairs(480, same=True).pairs, *pairs(32, same=False).pairs])
    for more, is_harm in ((many, False), (worse, True)):
        world = World(Comparer(live=few, more=more))
        await world.look()
        assert ("drifted" in (await world.look()).harm) is is_harm
        assert world.comparer.looked == [32, 512]


async def test_failed_calls_are_harm_and_a_gateway_that_is_silent_is_not() -> None:
    world = World(Comparer())
    for second in range(30):
        world.gateway.loads = {
            ("p.d", 1): Load(requests=second * 10),
            ("p.d", 2): Load(requests=second * 10, errors=second * 5),
        }
        world.gateway.error = OSError("away") if second % 3 else None
        await world.clock.advance(1)
        found = await world.look()
    assert "failed" in found.harm
    assert found.watched_s > 20


async def test_another_rollout_begins_with_nothing() -> None:
    world = World(Comparer(live=pairs(40, same=False)))
    await world.look()
    assert (await world.look()).harm != ""
    world.deployment.rollout.candidate_revision = 3
    world.comparer.found_live = pairs(40, same=True)
    found = await world.look()
    assert (found.harm, found.watched_s) == ("", 0)
    await world.watch.close()
