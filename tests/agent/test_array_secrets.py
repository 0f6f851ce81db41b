"""Secrets of arrays: fetched once for all tasks of a generation, kept out of their last words, gone with them."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chassis.clock import SystemClock
from lepton.errors import FailedPrecondition
from lepton.internal.v1 import secrets_pb2
from lepton.scheduler.v1.program_pb2 import SecretMount
from services.agent import array_secrets
from services.agent.processes import Warden
from services.agent.secret_files import SecretFiles
from services.agent.secrets import Secrets
from services.agent.tasks import Tasks
from tests.agent.test_tasks import Heard, start
from tests.harness.array_agent import SURROUNDINGS
from tests.harness.wait import until

TOKEN = "projects/acme/secrets/token"
VALUE = "canary-of-an-array"

pytestmark = pytest.mark.integration


@dataclass
class Delivery:
    """Auth's stub, in this process."""

    asked: list[int] = field(default_factory=list)
    refuses: bool = False

    async def ResolveSecrets(self, request: Any, **_: Any) -> secrets_pb2.ResolveSecretsResponse:
        self.asked.append(request.generation)
        if self.refuses:
            raise FailedPrecondition("SECRET_DISABLED", secret=TOKEN)
        value = secrets_pb2.SecretValue(secret=TOKEN, version=1, value=VALUE.encode())
        return secrets_pb2.ResolveSecretsResponse(secrets=[value])


@pytest.fixture
def delivery(monkeypatch: pytest.MonkeyPatch) -> Delivery:
    found = Delivery()
    monkeypatch.setattr("services.agent.secrets.SecretDeliveryServiceStub", lambda _: found)
    return found


@pytest.fixture
async def tasks(tmp_path: Path, delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tasks]:
    monkeypatch.setattr(array_secrets, "_LINGER_S", 0.05)
    inherited = {"PATH": os.environ["PATH"]}
    files = SecretFiles(tmp_path / "memory")
    async with Warden(inherited) as warden:
        with files.prepared():
            async with Tasks(
                surroundings=SURROUNDINGS,
                root=tmp_path / "tasks",
                inherited=inherited,
                warden=warden,
                secrets=Secrets(object(), files, SystemClock()),
            ) as made:
                yield made


def mounted(message: Any) -> Any:
    message.program.secrets.append(SecretMount(secret=TOKEN, env="TOKEN"))
    message.program.secrets.append(SecretMount(secret=TOKEN, file="deep/token"))
    return message


CHECK = f'test "$TOKEN" = {VALUE} && test "$(cat $LEPTON_SECRETS/deep/token)" = {VALUE}'


async def test_all_tasks_find_them_and_auth_is_asked_once(tasks: Tasks, delivery: Delivery, tmp_path: Path) -> None:
    heard = Heard(tasks)
    tasks.start(mounted(start(range(30), "sh", "-c", CHECK)))
    await heard.until_ended(30)
    assert len(heard.succeeded) == 30, heard.ended
    assert delivery.asked == [1]
    await until(lambda: not any((tmp_path / "memory").iterdir()))  # nothing runs that has them
    tasks.start(mounted(start([40], "sh", "-c", CHECK, serial=2)))
    await heard.until_ended(31)
    assert delivery.asked == [1, 1]


async def test_the_control_without_them_the_same_task_fails(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(start([0], "sh", "-c", CHECK))
    await heard.until_ended(1)
    assert heard.succeeded == []


async def test_the_last_words_of_a_task_do_not_tell_them(tasks: Tasks) -> None:
    heard = Heard(tasks)
    tasks.start(mounted(start([0], "sh", "-c", 'echo "no access with $TOKEN" >&2; exit 3')))
    await heard.until_ended(1)
    assert heard.ended[0].message == "no access with *** (exit code 3)"


async def test_words_that_were_cut_within_a_value_do_not_tell_a_part_of_it(tasks: Tasks) -> None:
    heard = Heard(tasks)
    script = 'printf "$TOKEN%8185s" "" | tr " " x >&2; exit 3'  # of the output the last 8 KiB are looked at
    tasks.start(mounted(start([0], "sh", "-c", script)))
    await heard.until_ended(1)
    assert heard.ended[0].message.startswith("***xxx")


async def test_a_secret_that_cannot_be_had_fails_the_tasks_and_other_arrays_go_on(
    tasks: Tasks, delivery: Delivery
) -> None:
    delivery.refuses = True
    heard = Heard(tasks)
    tasks.start(mounted(start(range(3), "true")))
    await heard.until_ended(3)
    assert all("is disabled" in end.message for end in heard.ended.values())
    assert tasks.is_idle
    other = start(range(3), "true", generation=1)
    other.workload, other.workload_uid = "projects/acme/workloads/b", "u2"
    tasks.start(other)
    await heard.until_ended(6)
    assert len(heard.succeeded) == 3


async def test_tasks_that_are_stopped_before_their_secrets_came_never_start(tasks: Tasks, delivery: Delivery) -> None:
    heard = Heard(tasks)
    tasks.start(mounted(start(range(3), "sh", "-c", CHECK)))
    await tasks.stop_all(0.0, "test")
    await heard.until_ended(3)
    assert heard.succeeded == []
