"""What each kind of failure may cost a job: the defaults, what it asks for instead, and what the scheduler is told."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lepton.errors import InvalidArgument
from lepton.scheduler.v1.workload_pb2 import RestartPolicy
from lepton.trainer.v1.job_pb2 import FailurePolicy, Job, JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """What follows a kind of failure that the job says nothing about."""

    most_restarts: int | None = None  # of the job's own; None = all of them
    avoids_node: bool = False
    stops_repeated: bool = False  # the same failure at the same step twice in a row ends the job


DEFAULTS: Final[Mapping["JobError.Class.ValueType", Default]] = {
    JobError.USER_ERROR: Default(stops_repeated=True),
    JobError.OOM_HOST: Default(most_restarts=1, avoids_node=True, stops_repeated=True),
    JobError.OOM_DEVICE: Default(most_restarts=1, stops_repeated=True),
    JobError.COMM_TIMEOUT: Default(avoids_node=True),
    JobError.NODE_LOST: Default(avoids_node=True),
    JobError.PREEMPTED: Default(),
    JobError.DATA: Default(most_restarts=1, stops_repeated=True),
    JobError.CANCELLED: Default(),
    JobError.HANG: Default(avoids_node=True),
    JobError.STORAGE: Default(avoids_node=True),
}
"""By kind. Lost nodes and preemptions cost nothing; the scheduler knows that of itself."""


def check_failure_policy(policy: FailurePolicy) -> None:
    """Raises InvalidArgument naming the field that is wrong."""
    fields: dict[str, str] = {}
    for at, rule in enumerate(policy.rules):
        where = f"job.failure_policy.rules[{at}]"
        if _class_of(rule) not in DEFAULTS:
            fields[f"{where}.class"] = "must name a kind of failure"
        if rule.backoff.ToTimedelta().total_seconds() < 0:
            fields[f"{where}.backoff"] = "must not be negative"
    for kind, count in Counter(map(_class_of, policy.rules)).items():
        if count > 1:
            fields["job.failure_policy.rules"] = f"has {count} rules for {_name(kind)}"
    if policy.hang_timeout.ToTimedelta().total_seconds() < 0:
        fields["job.failure_policy.hang_timeout"] = "must not be negative; leave it out for the default"
    if fields:
        raise InvalidArgument("INVALID_FIELD", fields=fields)


def restart_policy(job: Job) -> RestartPolicy:
    """The rules for a job's workload: one for each kind of failure."""
    asked = {_class_of(rule): rule for rule in job.failure_policy.rules}
    return RestartPolicy(rules=[_rule(job, kind, default, asked.get(kind)) for kind, default in DEFAULTS.items()])


def _rule(
    job: Job, kind: "JobError.Class.ValueType", default: Default, asked: FailurePolicy.Rule | None
) -> RestartPolicy.Rule:
    rule = RestartPolicy.Rule(
        failure_class=_name(kind), avoid_node=default.avoids_node, stop_repeated=default.stops_repeated
    )
    if default.most_restarts is not None:
        rule.max_restarts = min(default.most_restarts, job.max_restarts)
    if asked is None:
        return rule
    if asked.HasField("max_restarts"):
        rule.max_restarts = asked.max_restarts
        rule.stop_repeated = False  # so often it is wanted, also if nothing changes
    if asked.HasField("backoff"):
        rule.backoff_s = asked.backoff.ToTimedelta().total_seconds()
    if asked.HasField("avoid_node"):
        rule.avoid_node = asked.avoid_node
    return rule


def _class_of(rule: FailurePolicy.Rule) -> "JobError.Class.ValueType":
    kind: JobError.Class.ValueType = getattr(rule, "class")  # a keyword of Python
    return kind


def _name(kind: "JobError.Class.ValueType") -> str:
    return JobError.Class.Name(kind)
