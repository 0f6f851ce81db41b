"""Jobs that name secrets: let in by the gate, handed on to their workload by name."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from chassis.paging import Pager
from lepton.errors import FailedPrecondition, PermissionDenied
from lepton.scheduler.v1 import program_pb2
from lepton.trainer.v1.job_pb2 import Job, SecretMount, Workers
from lepton.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub, add_TrainerServiceServicer_to_server
from services.trainer.servicer import TrainerServicer
from services.trainer.store import PAGE_KEY
from services.trainer.workload import workload_request
from tests.harness.mesh import serving
from tests.trainer.conftest import World, job_request

DB = "projects/acme/secrets/db"
MOUNTS = [SecretMount(secret=DB, version=2, env="TOKEN"), SecretMount(secret=DB, file="keys/a")]


class Refusing:
    """A gate that lets nobody pass who names secrets."""

    async def admit(self, mounts: Iterable[Any], project: str, path: str, taken: Collection[str] = ()) -> None:
        if any(True for _ in mounts):
            raise PermissionDenied("PERMISSION_DENIED", permission=f"{project} {path}", resource=DB)


async def test_a_job_with_secrets_passes_the_gate_or_is_not_made(world: World) -> None:
    pager = await Pager.open(world.kv, PAGE_KEY)
    dataset = await world.artifacts.put_bytes("acme", b"data")
    for gate, error in ((Refusing(), PermissionDenied), (None, FailedPrecondition)):
        servicer = TrainerServicer(world.kv, world.artifacts, world.journals, pager, gate)
        async with serving((add_TrainerServiceServicer_to_server, servicer)) as mesh, mesh.client() as channel:
            stub: Any = TrainerServiceStub(channel)
            with pytest.raises(error):
                await stub.CreateJob(job_request("with", dataset=dataset, secrets=MOUNTS))
            made = await stub.CreateJob(job_request(f"without-{error.__name__.lower()}", dataset=dataset))
            assert not made.secrets  # the control


def test_the_workload_names_them_as_the_job_does() -> None:
    job = Job(name="projects/acme/jobs/digits", uid="01234567-89ab", workers=Workers(count=1), secrets=MOUNTS)
    torch = workload_request(job).workload.groups[0].program.torch
    assert list(torch.secrets) == [
        program_pb2.SecretMount(secret=DB, version=2, env="TOKEN"),
        program_pb2.SecretMount(secret=DB, file="keys/a"),
    ]
