"""Compliance at admission: what is asked for is judged by the policies in force, from memory."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from chassis.access import PolicyReplica, PolicySnapshot
from chassis.call import current_call
from chassis.clock import Clock, SystemClock
from chassis.logs import logger
from chassis.telemetry import counter
from lepton.auth.v1.compliance_pb2 import CompliancePolicy
from lepton.compliance.rulebook import Rulebook, Violation, worst_first
from lepton.compliance.subject import Subject
from lepton.errors import FailedPrecondition, Unavailable

log = logger(__name__)

WARNING: Final = "x-lepton-compliance-warning-bin"  # in the trailers of an answer: UTF-8, one for each rule
_MOST_POOLS: Final = 64  # that a workload may name
_MOST_WARNINGS: Final = 4  # trailers are bounded, and so is what a caller reads
_violations = counter(
    "lepton_compliance_violations",
    "Requests that did not keep a rule.",
    labels=("kind", "mode"),
)


class Pools(Protocol):
    """Where the labels of pools are known."""

    @property
    def labels(self) -> Mapping[str, Mapping[str, str]] | None:
        """Of every pool, by its name; None = not known yet."""
        ...


class Compliance:
    """Judges by the policies that the feed brings; without a feed nothing is demanded."""

    def __init__(self, access: PolicyReplica | None = None, pools: Pools | None = None, clock: Clock | None = None):
        self._pools = pools
        self._clock = clock or SystemClock()
        self._listeners: list[Callable[[], None]] = []
        self.rulebook = Rulebook()
        self.revision = 0
        self.ready = asyncio.Event()  # a policy has been heard of
        if access is not None:
            access.on_change(self.apply)

    def apply(self, snapshot: PolicySnapshot) -> None:
        """Judge by this policy from now on."""
        is_new = snapshot.compliance != self.rulebook
        self.rulebook, self.revision = snapshot.compliance, snapshot.revision
        self.ready.set()
        if is_new:
            for listener in self._listeners:
                listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this when other policies, exemptions or labels come into force."""
        self._listeners.append(listener)

    def judge(self, subject: Subject) -> list[Violation]:
        """Every rule that a subject does not keep. Raises Unavailable while it cannot be judged."""
        if not self.rulebook.policies:
            return []
        labels = self._pools.labels if self._pools is not None else None
        if labels is None and self.rulebook.needs_pools(subject):
            raise Unavailable("COMPLIANCE_NOT_READY")
        return self.rulebook.judge(subject, labels, self._clock.now())

    def admit(self, subject: Subject) -> None:
        """Let what is asked for pass, tell of it, or refuse it: FailedPrecondition (COMPLIANCE_VIOLATION)."""
        found = worst_first(self.judge(subject))
        for each in found:
            kind, mode = each.rule.WhichOneof("kind") or "", CompliancePolicy.Mode.Name(each.policy.mode)
            _violations.labels(kind, mode).inc()
            log.info(
                "compliance rule not kept",
                resource=subject.resource,
                policy=each.policy.name,
                rule=each.rule.id,
                mode=mode,
                exemption=each.exemption,
            )
        refused = [each for each in found if each.is_refused]
        if refused:
            raise refusal(refused)
        _tell([each for each in found if each.is_told])

    def placed(self, subject: Subject, pools: Sequence[str]) -> tuple[str, ...]:
        """Those of these pools (none: of all) in which a subject may be, all of them where nothing is refused.

        Raises FailedPrecondition (COMPLIANCE_VIOLATION) when it may be in none.
        """
        wanted = tuple(pools)
        refused = self._refused(subject, wanted)
        if not refused:
            return wanted
        labels = self._pools.labels if self._pools is not None else None
        good = tuple(pool for pool in wanted or sorted(labels or {}) if not self._refused(subject, (pool,)))
        if not good:
            raise refusal(worst_first(refused))
        return good[:_MOST_POOLS]

    def _refused(self, subject: Subject, pools: tuple[str, ...]) -> list[Violation]:
        return [each for each in self.judge(replace(subject, pools=pools)) if each.is_refused]


def refusal(violations: list[Violation]) -> FailedPrecondition:
    """The answer that names policy, rule and fix: of the first as facts, of all as violations."""
    first = violations[0]
    fields: dict[str, str] = {}
    for each in violations:
        subject = f"{each.policy.name}/rules/{each.rule.id}"
        said = f"{each.fault.problem}; {each.fix}"
        fields[subject] = f"{fields[subject]} | {said}" if subject in fields else said
    return FailedPrecondition(
        "COMPLIANCE_VIOLATION",
        fields={subject: what[:1000] for subject, what in list(fields.items())[:16]},
        policy=first.policy.name,
        rule=first.rule.id,
        problem=first.fault.problem[:512],
        fix=first.fix,
        resource=first.subject.resource,
    )


def asked_by() -> str:
    """Who asks, for a subject: the principal of the call being served; a loop of the service is `service`."""
    call = current_call()
    return call.principal.name if call is not None and call.principal is not None else "service"


def _tell(violations: list[Violation]) -> None:
    call = current_call()
    if call is None or not violations:
        return
    texts = (f"{each.policy.name} (rule {each.rule.id}): {each.fault.problem}; {each.fix}" for each in violations)
    shown = list(dict.fromkeys(texts))[:_MOST_WARNINGS]
    call.context.set_trailing_metadata(tuple((WARNING, text[:512].encode()) for text in shown))
