"""The rollout's state machine, driven through a world of values where every replica gets ready at once, or never."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.rollout_pb2 import (
    BlueGreen,
    Canary,
    GateVerdict,
    PromotionGate,
    RollbackPolicy,
    RolloutStatus,
    Strategy,
)
from services.inference.rollout.advance import DRAIN_S, IN_PROGRESS, Evidence, Situation, advance, first, turn_back
from services.inference.rollout.seen import Seen

PASSED, REFUSED = GateVerdict(outcome=GateVerdict.PASSED), GateVerdict(outcome=GateVerdict.REFUSED, message="labels")
QUIET = RollbackPolicy(disabled=True)


def canary(*weights: int, hold_s: int = 0, manual: bool = False, gate: bool = False) -> Strategy:
    steps = [Canary.Step(weight=weight, hold=Duration(seconds=hold_s), manual=manual) for weight in weights]
    return Strategy(canary=Canary(steps=steps), gate=PromotionGate() if gate else None, rollback=QUIET)


@dataclass
class World:
    """A deployment of `replicas`, and revisions that have what they are given as soon as `tick` is called."""

    strategy: Strategy = field(default_factory=Strategy)
    replicas: int = 2
    floor: int = 0
    seconds: float = 1000.0
    evidence: Evidence = field(default_factory=Evidence)
    broken: dict[int, str] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    prepared: dict[int, bool] = field(default_factory=dict)
    ready: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deployment = Deployment(name="projects/p/deployments/d", revision=1, replicas=self.replicas)
        self.deployment.strategy.CopyFrom(self.strategy)
        first(self.deployment.rollout, 1, self.now)
        self.ready[1] = self.replicas
        self.log: list[str] = []

    @property
    def now(self) -> Timestamp:
        return Timestamp(nanos=int(self.seconds % 1 * 1e9), seconds=int(self.seconds))

    @property
    def status(self) -> RolloutStatus:
        return self.deployment.rollout

    def weights(self) -> dict[int, int]:
        return {each.revision: each.weight for each in self.status.targets}

    def state(self) -> str:
        return RolloutStatus.State.Name(self.status.state)

    def seen(self) -> dict[int, Seen]:
        return {
            each.revision: Seen(
                revision=each.revision,
                is_prepared=self.prepared.get(each.revision, True),
                failure=self.broken.get(each.revision, ""),
                routed=self.ready.get(each.revision, 0),
                has_calls=each.weight > 0,
            )
            for each in self.status.targets
        }

    def tick(self, seconds: float = 0.25) -> None:
        """Time passes, the leader looks, and then every revision has the replicas that it was given."""
        self.seconds += seconds
        situation = Situation(
            seen=self.seen(),
            replicas=self.replicas,
            floor=self.floor or self.replicas,
            now=self.now,
            evidence=self.evidence,
        )
        advance(self.deployment, situation)
        self.check()
        for each in self.status.targets:
            if each.revision not in self.stuck:
                self.ready[each.revision] = each.replicas or self.replicas

    def check(self) -> None:
        """What must hold at every moment."""
        weights = self.weights()
        assert sum(weights.values()) == 100, weights
        assert all(weight >= 0 for weight in weights.values())
        for revision, weight in weights.items():
            if weight and revision != 1:
                assert self.ready.get(revision, 0) > 0, "calls go only to what is ready"
        assert self.status.stable_revision in weights

    def until(self, condition: Callable[[], bool], most: int = 2000) -> None:
        for _ in range(most):
            self.tick()
            if condition():
                return
        raise AssertionError(f"never: {self.status}")

    def over(self) -> bool:
        return self.status.state not in IN_PROGRESS and len(self.status.targets) == 1

    def update(self, revision: int) -> None:
        self.deployment.revision = revision


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "strategy", [Strategy(), canary(1, 10, 50), canary(0, hold_s=3), Strategy(blue_green=BlueGreen())]
)
def test_a_new_revision_takes_over_and_the_old_one_goes_last(strategy: Strategy, replicas: int) -> None:
    world = World(strategy, replicas)
    world.update(2)
    world.until(world.over)
    assert (world.state(), world.status.stable_revision, world.weights()) == ("COMPLETED", 2, {2: 100})


def test_the_order_is_ready_then_routed_then_shrunk() -> None:
    world = World(replicas=2)
    world.stuck.add(2)
    world.update(2)
    for _ in range(8):
        world.tick()
    assert world.weights() == {1: 100, 2: 0}, "nothing is sent to what is not ready"
    world.ready[2] = 1
    world.tick()
    assert world.weights() == {1: 50, 2: 50}
    old = next(each for each in world.status.targets if each.revision == 1)
    assert old.replicas == 0, "not shrunk before the gateways follow"
    world.until(lambda: old.replicas == 1, most=10)
    world.stuck.clear()
    world.until(lambda: world.status.state == RolloutStatus.COMPLETED)
    assert world.weights() == {1: 0, 2: 100}
    began = world.seconds
    world.until(world.over)
    assert world.seconds - began >= DRAIN_S - 0.5, "the last old replicas answer what they have first"


def test_what_may_be_trimmed_needs_no_more_than_its_floor() -> None:
    world = World(replicas=4, floor=1)
    world.stuck.add(2)
    world.update(2)
    world.tick()
    world.ready[2] = 1
    world.until(world.over)
    assert (world.state(), world.weights()) == ("COMPLETED", {2: 100})


def test_a_refused_revision_never_gets_a_call() -> None:
    world = World(canary(10, gate=True))
    world.update(2)
    world.until(lambda: world.status.comparing)
    assert world.weights() == {1: 100, 2: 0}
    world.evidence = Evidence(verdict=REFUSED)
    world.until(world.over)
    assert (world.state(), world.status.message, world.weights()) == ("REFUSED", "labels", {1: 100})
    assert [each.outcome for each in world.status.verdicts] == [GateVerdict.REFUSED]
    for _ in range(20):
        world.tick()
    assert world.state() == "REFUSED", "it is not tried again by itself"


def test_a_passed_revision_goes_on_and_its_verdict_is_kept() -> None:
    world = World(canary(10, gate=True))
    world.update(2)
    world.until(lambda: world.status.comparing)
    world.evidence = Evidence(verdict=PASSED)
    world.until(world.over)
    assert (world.state(), len(world.status.verdicts)) == ("COMPLETED", 1)


@pytest.mark.parametrize("weight", [10, 50])
def test_harm_takes_the_calls_back_at_once(weight: int) -> None:
    world = World(canary(10, 50, hold_s=60))
    world.update(2)
    world.until(lambda: world.weights().get(2) == weight)
    world.evidence = Evidence(harm="errors")
    world.tick()
    assert world.weights() == {1: 100, 2: 0}
    world.until(world.over)
    assert (world.state(), world.status.message) == ("ROLLED_BACK", "errors")


def test_harm_says_nothing_of_what_gets_no_calls() -> None:
    world = World(canary(0, manual=True))
    world.update(2)
    world.evidence = Evidence(harm="errors")
    world.until(lambda: world.status.state == RolloutStatus.PAUSED)
    assert world.weights() == {1: 100, 2: 0}


def test_a_rolling_update_that_does_harm_gets_its_old_replicas_back() -> None:
    world = World(Strategy(rollback=QUIET), replicas=4)
    world.update(2)
    world.until(lambda: world.weights().get(2, 0) >= 50)
    world.evidence = Evidence(harm="slow")
    world.until(world.over)
    assert (world.state(), world.weights(), world.ready[1]) == ("ROLLED_BACK", {1: 100}, 4)


def test_a_manual_step_waits_to_be_promoted_and_a_full_promotion_skips_what_is_left() -> None:
    world = World(canary(10, 50, manual=True, gate=True))
    world.evidence = Evidence(verdict=PASSED)
    world.update(2)
    world.until(lambda: world.status.state == RolloutStatus.PAUSED)
    assert world.weights() == {1: 90, 2: 10}
    world.status.promoted_steps = world.status.step + 1
    world.until(lambda: world.weights()[2] == 50)
    world.until(lambda: world.status.state == RolloutStatus.PAUSED)
    world.status.promoted_steps, world.status.skip_gate = 1 << 30, True
    world.until(world.over)
    assert world.state() == "COMPLETED"


def test_a_pause_stops_it_but_not_the_way_back() -> None:
    world = World(canary(10, 50, hold_s=1))
    world.update(2)
    world.until(lambda: world.weights().get(2) == 10)
    world.status.paused = True
    for _ in range(40):
        world.tick()
    assert (world.state(), world.weights()) == ("PAUSED", {1: 90, 2: 10})
    world.evidence = Evidence(harm="errors")
    world.tick()
    assert world.weights() == {1: 100, 2: 0}


def test_a_hold_is_counted_from_when_the_calls_are_sent() -> None:
    world = World(canary(50, hold_s=10))
    world.update(2)
    world.until(lambda: world.weights().get(2) == 50)
    began = world.seconds
    world.until(lambda: world.status.state == RolloutStatus.COMPLETED)
    assert 10 <= world.seconds - began < 13


def test_a_leader_that_has_just_begun_looks_for_a_while_before_it_goes_on() -> None:
    strategy = canary(50, hold_s=10)
    strategy.rollback.CopyFrom(RollbackPolicy(window=Duration(seconds=30)))
    world = World(strategy)
    world.update(2)
    world.until(lambda: world.weights().get(2) == 50)
    world.tick(60)
    world.evidence = Evidence(watched_s=4.9)
    world.tick()
    assert world.state() == "PROGRESSING"
    world.evidence = Evidence(watched_s=5.0)
    world.tick()
    assert world.status.step == 1


@pytest.mark.parametrize("is_prepared", [True, False])
def test_what_gets_no_replicas_in_time_is_given_up(is_prepared: bool) -> None:
    strategy = Strategy(progress_deadline_s=30)
    world = World(strategy)
    world.stuck.add(2)
    world.prepared[2] = is_prepared
    world.update(2)
    world.tick()
    world.tick(29)
    assert world.state() == "PROGRESSING"
    world.tick(2)
    world.until(world.over)
    assert world.state() == "FAILED"


def test_what_cannot_be_prepared_fails_and_the_old_one_stays() -> None:
    world = World()
    world.stuck.add(2)
    world.broken[2] = "no file was made"
    world.update(2)
    world.until(world.over)
    assert (world.state(), world.weights()) == ("FAILED", {1: 100})
    assert "no file was made" in world.status.message


def test_a_lost_replica_begins_the_step_anew() -> None:
    world = World(canary(50, hold_s=5), replicas=4)
    world.update(2)
    world.until(lambda: world.weights().get(2) == 50)
    world.tick(2)
    world.stuck.add(2)
    world.ready[2] = 1
    world.tick(10)
    assert world.status.step == 0
    world.ready[2] = 2
    world.tick()
    began = world.seconds
    world.stuck.clear()
    world.until(lambda: world.status.state == RolloutStatus.COMPLETED)
    assert world.seconds - began >= 5


def test_the_way_back_to_what_still_serves_is_no_rollout() -> None:
    world = World(canary(50, hold_s=60))
    world.update(2)
    world.until(lambda: world.weights().get(2) == 50)
    world.update(1)
    world.until(world.over)
    assert (world.state(), world.status.stable_revision, world.weights()) == ("ABORTED", 1, {1: 100})
    world.update(2)
    world.until(world.over)
    assert world.status.stable_revision == 2, "and it can be asked for again"


def test_a_third_revision_overtakes_the_second() -> None:
    world = World(replicas=4)
    world.update(2)
    world.until(lambda: world.weights().get(2, 0) >= 50)
    world.update(3)
    world.until(world.over)
    assert (world.state(), world.weights()) == ("COMPLETED", {3: 100})


def test_blue_green_keeps_the_old_replicas_and_goes_back_without_starting_any() -> None:
    world = World(Strategy(blue_green=BlueGreen(keep_old=Duration(seconds=60)), rollback=QUIET))
    world.update(2)
    world.until(lambda: world.status.state == RolloutStatus.COMPLETED)
    world.tick(30)
    assert world.weights() == {1: 0, 2: 100}
    world.update(1)
    world.stuck.update({1, 2})  # whatever serves now is all there is
    world.until(lambda: world.weights()[1] == 100)
    assert world.status.candidate_revision == 1 or world.status.stable_revision == 1


def test_what_is_aborted_waits_for_the_old_replicas_before_the_calls_go_back() -> None:
    world = World(replicas=4)
    world.update(2)
    world.until(lambda: world.weights().get(2, 0) == 75)
    world.stuck.add(1)
    turn_back(world.status, RolloutStatus.ABORTED, "aborted")
    for _ in range(5):
        world.tick()
    assert world.weights()[2] == 75, "two replicas cannot carry the calls of four"
    world.stuck.clear()
    world.until(world.over)
    assert (world.state(), world.weights()) == ("ABORTED", {1: 100})


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_calls_go_to_what_is_ready_and_it_ends(seed: int) -> None:
    """Random strategies, wishes, verdicts and pauses; at any time a leader that knows nothing but the status."""
    print(f"seed {seed}")
    random = Random(seed)
    strategies = [Strategy(), canary(10, 50, hold_s=1, gate=True), canary(0, 100), Strategy(blue_green=BlueGreen())]
    world = World(random.choice(strategies), replicas=random.choice([1, 2, 5]))
    newest = 1
    for _ in range(120):
        match random.randrange(12):
            case 0:
                newest += 1
                world.update(newest)
            case 1:
                world.update(random.choice([each.revision for each in world.status.targets]))
            case 2:
                world.evidence = Evidence(
                    verdict=random.choice([None, PASSED, REFUSED]), harm=random.choice(["", "", "x"])
                )
            case 3 if world.status.state in IN_PROGRESS:
                world.status.paused = random.random() < 0.5
            case 4:
                world.deployment = Deployment.FromString(world.deployment.SerializeToString())
            case 5 if world.status.state in {RolloutStatus.PROGRESSING, RolloutStatus.PAUSED}:
                turn_back(world.status, RolloutStatus.ABORTED, "aborted")
            case 6:
                world.replicas = random.choice([1, 2, 5])
        world.tick(random.choice([0.1, 0.25, 1, 5]))
    world.status.paused = False
    world.evidence = Evidence(verdict=PASSED)
    world.until(world.over)
    wished = world.deployment.revision
    ended = {RolloutStatus.REFUSED, RolloutStatus.ROLLED_BACK, RolloutStatus.ABORTED}
    assert world.status.stable_revision == wished or world.status.state in ended
