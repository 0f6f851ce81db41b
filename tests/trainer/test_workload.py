"""What a job asks of the scheduler."""

from typing import Any

import pytest

from chassis.resources import now
from lepton.names import WorkloadName
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job, Workers
from services.trainer.submission import new_job
from services.trainer.workload import DEFAULT_CPU_MILLI, DEFAULT_MEMORY_BYTES, workload_name, workload_request
from tests.trainer.conftest import World, job_request


@pytest.fixture
def world(scheduled_world: World) -> World:
    return scheduled_world


def job(job_id: str = "digits", uid: str = "01234567-89ab", **fields: object) -> Job:
    return Job(name=f"projects/acme/jobs/{job_id}", uid=uid, workers=Workers(count=2), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("job_id", ["a", "a" * 63, "a" * 49 + "-" + "b" * 13, "a-" * 31 + "a"])
def test_every_job_id_gives_a_name_that_is_one(job_id: str) -> None:
    name = workload_name(job(job_id))
    assert WorkloadName.parse(str(name)) == name


def test_a_job_of_the_same_name_gets_another_workload() -> None:
    assert workload_name(job(uid="aaaaaaaa-1")) != workload_name(job(uid="bbbbbbbb-1"))


def test_a_repeat_asks_for_the_same() -> None:
    first, again = workload_request(job()), workload_request(job(state=Job.CANCELLING, message="later"))
    assert first == again
    assert first.request_id == job().uid


def test_what_is_left_open_has_its_default() -> None:
    group = workload_request(job()).workload.groups[0]
    resources = group.resources
    assert (resources.cpu_milli, resources.memory_bytes, resources.device_milli) == (
        DEFAULT_CPU_MILLI,
        DEFAULT_MEMORY_BYTES,
        1000,
    )
    assert (group.min_count, group.max_count) == (2, 2)


def test_no_devices_are_no_devices() -> None:
    asked = job()
    asked.workers.devices = 0
    assert workload_request(asked).workload.groups[0].resources.device_milli == 0


async def test_the_scheduler_takes_it(world: World) -> None:
    created = await world.ledger.create(workload_request(await world.submit(pools=["pools/a"], priority=5)))
    assert created is not None
    assert (created.kind, created.priority, list(created.pools)) == (Workload.TRAINING, 5, ["pools/a"])
    assert created.owner == "projects/acme/jobs/digits"


def test_what_its_user_wishes_of_the_scheduler_is_passed_on() -> None:
    wishes: dict[str, Any] = {
        "queue": "queues/night",
        "priority": 7,
        "expected_duration_s": 600,
        "floating_resources": {"floatingResources/licences": 2},
        "node_selector": {"tier": "fast"},
        "tolerated_taints": ["lepton.dev/repair"],
        "disable_preemption": True,
        "pools": ["pools/a"],
    }
    asked = new_job(job_request(workers=Workers(count=2, max_count=5), **wishes), "00-trace", now())
    wanted = workload_request(asked).workload
    for field in ("queue", "priority", "expected_duration_s", "disable_preemption"):
        assert getattr(wanted, field) == wishes[field]
    assert dict(wanted.floating_resources) == wishes["floating_resources"]
    assert dict(wanted.node_selector) == wishes["node_selector"]
    assert [(each.key, each.value) for each in wanted.tolerations] == [("lepton.dev/repair", "")]
    assert (wanted.groups[0].min_count, wanted.groups[0].max_count) == (2, 5)
