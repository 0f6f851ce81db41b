"""What a channel sends again: exactly what the protos call repeatable."""

import json
from typing import Any

import pytest

from deploy.retry_policy import FILE, methods, service_config
from lepton import errors
from lepton.auth.v1 import identity_service_pb2, identity_service_pb2_grpc
from lepton.trainer.v1 import job_pb2, trainer_service_pb2, trainer_service_pb2_grpc
from tests.harness.mesh import serving


def test_the_service_config_follows_from_the_protos() -> None:
    assert json.loads(FILE.read_text()) == service_config(), "run `python -m deploy.retry_policy`"


@pytest.mark.parametrize("method", list(methods()), ids=lambda method: method.full_name)
def test_reading_methods_say_that_they_change_nothing(method: Any) -> None:
    if method.name.startswith(("Get", "List", "Watch")):
        assert method.GetOptions().idempotency_level == 1, "add `option idempotency_level = NO_SIDE_EFFECTS`"


class Flaky(trainer_service_pb2_grpc.TrainerServiceServicer):
    """Is unavailable at first."""

    def __init__(self) -> None:
        self.calls = 0

    async def GetJob(self, request: Any, context: Any) -> Any:
        self.calls += 1
        if self.calls < 3:
            raise errors.Unavailable("LEADER_CHANGING", "soon")
        return job_pb2.Job(name=request.name)


class Away(identity_service_pb2_grpc.IdentityServiceServicer):
    """Is never available."""

    def __init__(self) -> None:
        self.calls = 0

    async def CreateJoinToken(self, request: Any, context: Any) -> Any:
        self.calls += 1
        raise errors.Unavailable("LEADER_CHANGING", "soon")


async def test_a_read_is_sent_again() -> None:
    flaky = Flaky()
    add = trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server
    async with serving((add, flaky)) as mesh, mesh.client("users/root") as channel:
        stub: Any = trainer_service_pb2_grpc.TrainerServiceStub(channel)
        name = "projects/acme/jobs/one"
        assert (await stub.GetJob(trainer_service_pb2.GetJobRequest(name=name))).name == name
        assert flaky.calls == 3


async def test_a_change_is_not_sent_again() -> None:
    away = Away()
    add = identity_service_pb2_grpc.add_IdentityServiceServicer_to_server
    async with serving((add, away)) as mesh, mesh.client("users/root") as channel:
        stub: Any = identity_service_pb2_grpc.IdentityServiceStub(channel)
        with pytest.raises(errors.Unavailable, match="LEADER_CHANGING"):
            await stub.CreateJoinToken(identity_service_pb2.CreateJoinTokenRequest(spiffe_path="agent/n7"))
        assert away.calls == 1
