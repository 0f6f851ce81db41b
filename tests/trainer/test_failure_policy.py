"""What each kind of failure may cost: the defaults, and what a job may ask for instead."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from chassis.failures import FailureClass
from lepton.errors import InvalidArgument
from lepton.scheduler.v1.workload_pb2 import RestartPolicy
from lepton.trainer.v1.job_pb2 import FailurePolicy, Job, JobError
from services.trainer.failure_policy import DEFAULTS, check_failure_policy, restart_policy
from services.trainer.workload import workload_request


def rule(kind: JobError.Class.ValueType, **fields: Any) -> FailurePolicy.Rule:
    made = FailurePolicy.Rule(**fields)
    setattr(made, "class", kind)
    return made


def rules(*asked: FailurePolicy.Rule, max_restarts: int = 3) -> dict[str, RestartPolicy.Rule]:
    job = Job(max_restarts=max_restarts, failure_policy=FailurePolicy(rules=asked))
    return {each.failure_class: each for each in restart_policy(job).rules}


def test_every_class_has_its_rule() -> None:
    assert {JobError.Class.Name(kind) for kind in DEFAULTS} == set(rules()) == set(FailureClass)


def test_what_fails_again_is_tried_again_once_and_not_where_the_job_wants_no_restarts() -> None:
    for name in ("OOM_HOST", "OOM_DEVICE", "DATA"):
        assert rules()[name].max_restarts == 1
        assert rules(max_restarts=0)[name].max_restarts == 0
        assert rules()[name].stop_repeated
    for name in ("USER_ERROR", "COMM_TIMEOUT", "HANG", "STORAGE"):
        assert not rules()[name].HasField("max_restarts"), "those of the job"


def test_what_is_the_nodes_doing_is_not_tried_there_again() -> None:
    avoiding = {name for name, each in rules().items() if each.avoid_node}
    assert avoiding == {"OOM_HOST", "COMM_TIMEOUT", "NODE_LOST", "HANG", "STORAGE"}


def test_a_job_may_ask_for_something_else() -> None:
    asked = rule(JobError.OOM_DEVICE, max_restarts=7, backoff=Duration(seconds=90), avoid_node=True)
    found = rules(asked)["OOM_DEVICE"]
    assert (found.max_restarts, found.backoff_s, found.avoid_node, found.stop_repeated) == (7, 90.0, True, False)
    assert rules(rule(JobError.HANG, avoid_node=False))["HANG"].avoid_node is False


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (FailurePolicy(rules=[FailurePolicy.Rule(max_restarts=1)]), "job.failure_policy.rules[0].class"),
        (
            FailurePolicy(rules=[rule(JobError.DATA), rule(JobError.DATA)]),
            "job.failure_policy.rules",
        ),
        (
            FailurePolicy(rules=[rule(JobError.DATA, backoff=Duration(seconds=-1))]),
            "job.failure_policy.rules[0].backoff",
        ),
        (FailurePolicy(hang_timeout=Duration(seconds=-1)), "job.failure_policy.hang_timeout"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(policy: FailurePolicy, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_failure_policy(policy)
    assert list(refused.value.fields) == [field]


def test_the_workload_carries_the_rules() -> None:
    job = Job(name="projects/acme/jobs/digits", uid="0123456789", max_restarts=2)
    assert workload_request(job).workload.restart_policy == restart_policy(job)
