"""Jobs as they are submitted: what is refused, what is filled in, what the ranks are given."""

import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from chassis.resources import now
from lepton.errors import InvalidArgument
from lepton.trainer.v1.job_pb2 import (
    CheckpointPolicy,
    CodeBundle,
    FailurePolicy,
    Job,
    Parallelism,
    Recipe,
    Workers,
)
from services.trainer.submission import new_job, training_spec, what_to_run
from services.trainer.worker.spec import TrainingSpec
from tests.trainer.conftest import DATASET, job_request

BUNDLE = "sha256:" + "b" * 64
LOADER = CodeBundle(digest=BUNDLE, entry_point="m.py", environment={"LD_PRELOAD": "x"})


def submitted(**fields: Any) -> Job:
    return new_job(job_request(**fields), "00-trace", now())


def test_a_job_starts_pending_with_a_name_a_uid_and_its_trace() -> None:
    job = submitted(labels={"team": "a"}, priority=3)
    assert (job.name, job.state, job.trace_context) == ("projects/acme/jobs/digits", Job.PENDING, "00-trace")
    assert job.uid != submitted().uid
    assert (dict(job.labels), job.priority) == ({"team": "a"}, 3)
    assert job.create_time == job.update_time


def test_what_only_the_server_may_set_is_not_taken_over() -> None:
    job = submitted(state=Job.SUCCEEDED, package=DATASET, generation=9, workload="projects/acme/workloads/x")
    assert (job.state, job.package, job.generation, job.workload) == (Job.PENDING, "", 0, "")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"workers": Workers(count=4, max_count=2)}, "job.workers.max_count"),
        ({"recipe": Recipe(name="nobody_knows")}, "job.recipe.name"),
        ({"dataset": ""}, "job.dataset"),
        ({"dataset": "sha256:short"}, "job.dataset"),
        ({"checkpoint_policy": CheckpointPolicy(every_steps=2**31 - 1)}, "job.checkpoint_policy.every_steps"),
        ({"bundle": CodeBundle(digest=BUNDLE, entry_point="a/../../b.py")}, "job.bundle.entry_point"),
        ({"bundle": LOADER}, "job.bundle.environment"),
        ({"bundle": CodeBundle(digest=BUNDLE)}, "job.bundle.entry_point"),
        ({"bundle": CodeBundle(digest=BUNDLE, entry_point="m.py", module="m")}, "job.bundle.entry_point"),
        (
            {"bundle": CodeBundle(digest=BUNDLE, module="m", working_directory="a/../..")},
            "job.bundle.working_directory",
        ),
        ({"bundle": CodeBundle(digest=BUNDLE, module="m", requirements="../r.txt")}, "job.bundle.requirements"),
        ({"bundle": CodeBundle(digest=BUNDLE, module="m", argv=["a\0"])}, "job.bundle.argv"),
        ({"bundle": CodeBundle(digest=BUNDLE, module="m", environment={"A": "\0"})}, "job.bundle.environment[A]"),
        ({"pools": ["pools/a", "b"]}, "job.pools[1]"),
        ({"queue": "night"}, "job.queue"),
        ({"workers": Workers(count=3), "parallelism": Parallelism(tensor=2)}, "job.parallelism.tensor"),
        (
            {"workers": Workers(count=2), "parallelism": Parallelism(data=Parallelism.PARAMETER_SERVER, servers=2)},
            "job.parallelism.servers",
        ),
        (
            {"workers": Workers(count=2, max_count=4), "parallelism": Parallelism(pipeline=2)},
            "job.workers.max_count",
        ),
        ({"floating_resources": {"licences": 1}}, "job.floating_resources[licences]"),
        ({"node_selector": {"": "fast"}}, "job.node_selector"),
        ({"job_id": "Not An Id"}, "job"),
        ({"parent": "projects"}, "parent"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        submitted(**fields)
    assert list(caught.value.fields) == [field]


def test_what_a_recipe_leaves_open_has_the_recipes_default() -> None:
    spec = training_spec(submitted(recipe=Recipe(name="image_classifier", batch_size=32, seed=7)))
    assert (spec.batch_size, spec.seed, spec.epochs) == (32, 7, TrainingSpec(project="p", dataset=DATASET).epochs)


def test_ranks_of_a_recipe_read_a_specification_that_parses() -> None:
    answer = what_to_run(submitted(), "sha256:resume")
    assert TrainingSpec.parse(answer.spec_json).project == "acme"
    assert answer.resume_manifest == "sha256:resume"
    assert not answer.HasField("code")


def test_ranks_of_a_bundle_get_the_code() -> None:
    bundle = CodeBundle(digest=BUNDLE, entry_point="m.py", argv=["--x"], environment={"A": "1"})
    answer = what_to_run(submitted(bundle=bundle), "")
    assert (answer.code.digest, answer.code.entry_point, list(answer.code.argv)) == (BUNDLE, "m.py", ["--x"])
    assert json.loads(answer.spec_json) == {"project": "acme", "dataset": DATASET}
    assert answer.code.data == DATASET


def test_ranks_of_a_module_get_where_it_runs_and_what_it_needs() -> None:
    bundle = CodeBundle(digest=BUNDLE, module="a.b", working_directory="src", requirements="requirements.txt")
    code = what_to_run(submitted(bundle=bundle), "").code
    assert (code.entry_point, code.module) == ("", "a.b")
    assert (code.working_directory, code.requirements) == ("src", "requirements.txt")


def test_ranks_are_told_of_the_checkpoints_the_strategy_and_the_limits_of_their_job() -> None:
    policy = FailurePolicy(hang_timeout=Duration(seconds=90), skip_preflight=True)
    job = submitted(
        parallelism=Parallelism(data=Parallelism.FSDP, tensor=2),
        failure_policy=policy,
        workers=Workers(count=4, memory_bytes=2 << 30),
    )
    answer = what_to_run(job, "sha256:c", ["sha256:b", "sha256:a"])
    assert json.loads(answer.parallelism_json) == {"data": "FSDP", "tensor": 2}
    assert (answer.hang_timeout_s, answer.preflight, answer.memory_bytes) == (90.0, False, 2 << 30)
    assert list(answer.older_manifests) == ["sha256:b", "sha256:a"]
    plain = what_to_run(submitted(), "")
    assert (plain.parallelism_json, plain.hang_timeout_s, plain.preflight) == ("", 0.0, True)
    assert plain.memory_bytes == 0  # not asked for, not held to
