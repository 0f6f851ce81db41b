"""The rollout's state machine: wish, observation, evidence and time in, the next status out.

All it knows stands in the status, which lies in the store with its deployment: whoever leads goes on where another was.
The order is always: the new revision's replicas get ready, then calls are sent to them, then old replicas go.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.rollout_pb2 import GateVerdict, RollbackPolicy, RolloutStatus
from services.inference.rollout.burn import windows_s
from services.inference.rollout.seen import Seen
from services.inference.rollout.stages import ALL, Stage, drain_s, progress_deadline_s, stages

IN_PROGRESS: Final = frozenset({RolloutStatus.PROGRESSING, RolloutStatus.PAUSED, RolloutStatus.ROLLING_BACK})
TAKEOVER_S: Final = 1.0
"""So long after the weights were written every gateway follows them."""
DRAIN_S: Final = 3.0
"""So long replicas are kept that get no more calls, beside what their own end waits for calls in flight."""
_VERDICTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found out about the new revision since the last look."""

    verdict: GateVerdict | None = None
    """The comparison that the present step asked for."""
    harm: str = ""
    """How the new revision does badly with real calls, or differs on them; empty = it does not, as far as is known."""
    problem: str = ""
    """Why the comparison could not be made yet."""
    watched_s: float = 0.0
    """How long this leader has seen the rollout's traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the next status follows from, beside the deployment."""

    seen: Mapping[int, Seen]
    replicas: int
    """How many replicas the revision that gets all calls should have."""
    floor: int
    """How many of them will do, when others need the room."""
    now: Timestamp
    evidence: Evidence = field(default_factory=Evidence)

    def of(self, revision: int) -> Seen:
        """A revision as it is; one that was not looked at yet has nothing."""
        return self.seen.get(revision) or Seen(revision=revision)

    def enough(self, replicas: int) -> int:
        """How many replicas will do where so many are asked for."""
        return math.ceil(replicas * self.floor / self.replicas) if self.replicas else 0

    def since_s(self, moment: Timestamp) -> float:
        """Seconds since then."""
        return (self.now.ToNanoseconds() - moment.ToNanoseconds()) / 1e9


def first(status: RolloutStatus, revision: int, now: Timestamp) -> None:
    """The status of a new deployment: its first revision gets the calls as soon as it has replicas."""
    status.state = RolloutStatus.COMPLETED
    status.stable_revision = revision
    status.targets.add(revision=revision, weight=ALL)
    status.start_time.CopyFrom(now)


def advance(deployment: Deployment, situation: Situation) -> None:
    """Brings `deployment.rollout` as far as the situation allows."""
    status = deployment.rollout
    if not status.targets:
        first(status, deployment.revision, situation.now)
    if deployment.revision == status.stable_revision:
        if status.candidate_revision and status.state in {RolloutStatus.PROGRESSING, RolloutStatus.PAUSED}:
            turn_back(status, RolloutStatus.ABORTED, f"the deployment asks for revision {deployment.revision} again")
        elif status.state not in IN_PROGRESS:
            status.candidate_revision = 0
    elif deployment.revision != status.candidate_revision:
        _begin(status, deployment.revision, situation)
    if status.state == RolloutStatus.ROLLING_BACK:
        _back(status, situation)
    elif status.state in IN_PROGRESS:
        _forward(deployment, situation)
    _leave(deployment, situation)


def turn_back(status: RolloutStatus, outcome: "RolloutStatus.State.ValueType", message: str) -> None:
    """Calls are to go back to the stable revision, for good."""
    status.state, status.outcome, status.message = RolloutStatus.ROLLING_BACK, outcome, message
    status.comparing = status.paused = False


def target_of(status: RolloutStatus, revision: int) -> RolloutStatus.Target | None:
    """What a revision gets; None when it has no replicas."""
    return next((each for each in status.targets if each.revision == revision), None)


def _begin(status: RolloutStatus, revision: int, situation: Situation) -> None:
    target = target_of(status, revision)
    if target is None:
        target = status.targets.add(revision=revision, replicas=1)
    target.ClearField("leave_time")
    stable = target_of(status, status.stable_revision)
    if stable is not None:
        stable.replicas = 0  # what an earlier rollout has taken from it
    status.state, status.candidate_revision = RolloutStatus.PROGRESSING, revision
    status.message = f"revision {revision} is being prepared"
    for cleared in ("step", "step_time", "end_time", "promoted_steps", "skip_gate", "outcome", "comparing", "verdicts"):
        status.ClearField(cleared)
    status.paused = False
    status.start_time.CopyFrom(situation.now)
    status.progress_time.CopyFrom(situation.now)


def _forward(deployment: Deployment, situation: Situation) -> None:
    status, strategy = deployment.rollout, deployment.strategy
    path = stages(strategy, situation.replicas)
    status.step_count = len(path)
    while status.candidate_revision and status.state != RolloutStatus.ROLLING_BACK:
        status.step = min(status.step, len(path) - 1)
        if _is_in_trouble(deployment, situation) or not _is_over(deployment, path[status.step], situation):
            break
        status.comparing = False
        if status.step + 1 == len(path):
            _complete(status, situation)
            return
        status.step += 1
        status.ClearField("step_time")
        status.progress_time.CopyFrom(situation.now)
    if status.state == RolloutStatus.ROLLING_BACK:
        _back(status, situation)


def _is_in_trouble(deployment: Deployment, situation: Situation) -> bool:
    status = deployment.rollout
    new = situation.of(status.candidate_revision)
    if why := new.failure or new.blocked:
        turn_back(status, RolloutStatus.FAILED, f"revision {new.revision}: {why}")
    elif situation.evidence.harm and new.has_calls:
        turn_back(status, RolloutStatus.ROLLED_BACK, situation.evidence.harm)
    return status.state == RolloutStatus.ROLLING_BACK


def _is_over(deployment: Deployment, stage: Stage, situation: Situation) -> bool:
    """Brings the present stage as far as it goes; whether that is its end."""
    status = deployment.rollout
    return (
        _has_replicas(deployment, stage, situation)
        and _has_calls(status, stage, situation)
        and not _is_held(status, stage, deployment.strategy.rollback, situation)
        and _is_passed(status, stage, situation)
    )


def _has_replicas(deployment: Deployment, stage: Stage, situation: Situation) -> bool:
    status = deployment.rollout
    new, target = situation.of(status.candidate_revision), target_of(status, status.candidate_revision)
    assert target is not None
    target.replicas = stage.replicas if stage.replicas < situation.replicas else 0
    enough = situation.enough(stage.replicas)
    if new.is_prepared and new.routed >= enough:
        return True
    if status.HasField("step_time"):  # a replica is lost: the stage begins anew when there is another
        status.ClearField("step_time")
        status.progress_time.CopyFrom(situation.now)
    status.state = RolloutStatus.PAUSED if status.paused else RolloutStatus.PROGRESSING
    status.message = (
        f"{new.routed} of {enough} replicas of revision {new.revision} are ready"
        if new.is_prepared
        else f"revision {new.revision} is being prepared"
    )
    deadline_s = progress_deadline_s(deployment.strategy)
    if situation.since_s(status.progress_time) > deadline_s:
        turn_back(status, RolloutStatus.FAILED, f"{status.message} after {deadline_s:g} s: {new.message}".rstrip(": "))
    return False


def _has_calls(status: RolloutStatus, stage: Stage, situation: Situation) -> bool:
    new, old = target_of(status, status.candidate_revision), target_of(status, status.stable_revision)
    assert new is not None
    if new.weight != stage.weight or not status.HasField("step_time"):
        _send(status, new, stage.weight)
        status.step_time.CopyFrom(situation.now)
    # A stage that changes nothing has nothing to be followed.
    if situation.since_s(status.step_time) < TAKEOVER_S:
        status.state = RolloutStatus.PAUSED if status.paused else RolloutStatus.PROGRESSING
        status.message = f"{stage.weight} % of the calls are sent to revision {new.revision}"
        return False
    if old is not None:
        old.replicas = stage.kept
    return True


def _send(status: RolloutStatus, new: RolloutStatus.Target, weight: int) -> None:
    """Gives the new revision its calls; what is left is divided among the others as it was."""
    others = [each for each in status.targets if each.revision != new.revision]
    before, left = sum(each.weight for each in others), ALL - weight
    new.weight = weight
    for each in others:
        each.weight = left * each.weight // before if before else 0
    old = target_of(status, status.stable_revision)
    if old is not None:
        old.weight += left - sum(each.weight for each in others)


def _is_held(status: RolloutStatus, stage: Stage, policy: RollbackPolicy, situation: Situation) -> bool:
    at = f"step {status.step + 1} of {status.step_count}, {stage.weight} % of the calls"
    if status.paused:
        status.state, status.message = RolloutStatus.PAUSED, f"paused at {at}"
        return True
    status.state = RolloutStatus.PROGRESSING
    if status.promoted_steps > status.step:
        return False
    # A leader that has just begun has not seen how the new revision does: it watches for a short window first.
    watched_s = min(stage.hold_s, windows_s(policy)[1]) if not policy.disabled else 0.0
    if situation.since_s(status.step_time) < stage.hold_s or situation.evidence.watched_s < watched_s:
        status.message = f"{at}, held for {stage.hold_s:g} s"
        return True
    if stage.manual:
        status.state, status.message = RolloutStatus.PAUSED, f"{at}, waits to be promoted"
        return True
    return False


def _is_passed(status: RolloutStatus, stage: Stage, situation: Situation) -> bool:
    if not stage.gate or status.skip_gate:
        return True
    verdict = situation.evidence.verdict
    if verdict is None or not status.comparing:
        status.comparing = True
        problem = situation.evidence.problem
        status.message = f"revision {status.candidate_revision} is compared with {status.stable_revision}" + (
            f": {problem}" if problem else ""
        )
        return False
    status.verdicts.append(verdict)
    del status.verdicts[:-_VERDICTS]
    if verdict.outcome == GateVerdict.PASSED:
        return True
    turn_back(status, RolloutStatus.REFUSED, verdict.message)
    return False


def _complete(status: RolloutStatus, situation: Situation) -> None:
    old = target_of(status, status.stable_revision)
    if old is not None:
        old.weight = 0
        old.leave_time.CopyFrom(situation.now)
    status.stable_revision, status.candidate_revision = status.candidate_revision, 0
    status.state, status.message = RolloutStatus.COMPLETED, f"revision {status.stable_revision} gets all calls"
    status.end_time.CopyFrom(situation.now)


def _back(status: RolloutStatus, situation: Situation) -> None:
    """The stable revision gets its replicas back, then all calls; at once where the new one does harm."""
    stable, new = target_of(status, status.stable_revision), target_of(status, status.candidate_revision)
    if stable is not None:
        stable.replicas = 0
    is_harmful = status.outcome != RolloutStatus.ABORTED
    needed = 1 if is_harmful else situation.floor
    is_needed = new is not None and new.weight > 0 and situation.of(new.revision).routed > 0
    if is_needed and situation.of(status.stable_revision).routed < needed:
        return
    for each in status.targets:
        each.weight = ALL if each.revision == status.stable_revision else 0
    if new is not None:
        new.leave_time.CopyFrom(situation.now)
    status.state = status.outcome
    status.ClearField("step_time")
    status.end_time.CopyFrom(situation.now)


def _leave(deployment: Deployment, situation: Situation) -> None:
    """Revisions that get no more calls go once theirs are answered; those that a newer wish overtook, once they may."""
    status = deployment.rollout
    staying = {status.stable_revision}
    if status.state in IN_PROGRESS:
        staying.add(status.candidate_revision)
    grace_s = drain_s(deployment.strategy, DRAIN_S)
    for target in list(status.targets):
        if target.revision in staying:
            continue
        if target.HasField("leave_time"):
            is_promoted_over = status.state == RolloutStatus.COMPLETED
            if situation.since_s(target.leave_time) >= (grace_s if is_promoted_over else DRAIN_S):
                status.targets.remove(target)
        elif not target.weight or situation.of(status.stable_revision).routed >= situation.floor:
            _overtake(status, target, situation)


def _overtake(status: RolloutStatus, target: RolloutStatus.Target, situation: Situation) -> None:
    stable = target_of(status, status.stable_revision)
    if stable is not None:
        stable.weight = min(ALL, stable.weight + target.weight)
    target.weight = 0
    target.leave_time.CopyFrom(situation.now)
