"""The audit log of a whole mesh whose services are killed: what was answered is in it, and it holds."""

import pytest

from lepton.auth.v1.audit_service_pb2 import AuditRecord
from lepton.client import AsyncClient
from lepton.scheduler.v1.queue_pb2 import Queue
from tests.harness.wait import until
from tests.mesh.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(300)]

KILLED = {10: "auth", 20: "scheduler", 30: "auth"}


async def test_no_mutation_is_missed_though_auth_and_the_scheduler_are_killed(
    stack: Stack, client: AsyncClient
) -> None:
    acknowledged = set()
    for at in range(40):
        if at in KILLED:
            before = stack.restarts(KILLED[at])
            stack.kill(KILLED[at])
            await until(lambda name=KILLED[at], count=before: stack.restarts(name) > count, 30)  # type: ignore[misc]
        acknowledged.add((await client.queues.create(f"q{at}", Queue())).name)

    async def recorded() -> set[str]:
        listing = client.audit.query(project="*", action="CreateQueue", outcome=AuditRecord.SUCCEEDED)
        return {record.resource for record in await listing.all()}

    async def is_complete() -> bool:
        return acknowledged <= await recorded()

    await until(is_complete, 60)
    verdict = await client.audit.verify()
    assert not verdict.findings
    assert verdict.checked == verdict.sequence
    services = {record.service for record in await client.audit.query(project="*").all()}
    assert services == {"auth", "scheduler"}
