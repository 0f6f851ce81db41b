"""What compliance is judged by, as the store has it: part of the policy that every service follows."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from chassis.kv import Event
from lepton.auth.v1.compliance_pb2 import ComplianceExemption, CompliancePolicy, DataLabels, RetentionRule
from services.auth import layout
from services.auth.store import resource_of

M = TypeVar("M", bound=Message)


class ComplianceState:
    """Policies, exemptions and labels, by the keys that they lie at."""

    def __init__(self) -> None:
        self.policies: dict[str, CompliancePolicy] = {}
        self.exemptions: dict[str, ComplianceExemption] = {}
        self.data_labels: dict[str, DataLabels] = {}

    def apply(self, event: Event) -> bool:
        """Take over a change; False when it is of something else."""
        if event.key.startswith(layout.COMPLIANCE_POLICIES):
            _take(self.policies, event, CompliancePolicy)
        elif event.key.startswith(layout.COMPLIANCE_EXEMPTIONS):
            _take(self.exemptions, event, ComplianceExemption)
        elif event.key.startswith(layout.DATA_LABELS):
            _take(self.data_labels, event, DataLabels)
        else:
            return False
        return True

    def audit_keep(self, configured: timedelta | None) -> timedelta | None:
        """How long audit records are kept: as configured, no longer than the policies allow, no shorter than they ask.

        None is for ever. Where they contradict each other the records stay.
        """
        longest = min((each for each in self._audit_ages("max_age")), default=None)
        keep = configured if longest is None else min(configured or longest, longest)
        shortest = max(self._audit_ages("min_age"), default=timedelta())
        return None if keep is None else max(keep, shortest)

    def _audit_ages(self, bound: str) -> Iterator[timedelta]:
        for policy in self.policies.values():
            if policy.mode != CompliancePolicy.ENFORCE:
                continue
            for rule in policy.rules:
                if rule.retention.kind == RetentionRule.AUDIT_RECORDS and rule.retention.HasField(bound):  # type: ignore[arg-type]
                    age: Duration = getattr(rule.retention, bound)
                    yield age.ToTimedelta()


def _take(into: dict[str, M], event: Event, kind: type[M]) -> None:
    if event.entry is None:
        into.pop(event.key, None)
    else:
        into[event.key] = resource_of(event.entry, kind)
