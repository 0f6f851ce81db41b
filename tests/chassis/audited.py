"""A service that records its mutations while auth is away: run as a process, killed by the test."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.echo import Echo, add_echo_to_server
from chassis.access import PolicyReplica
from chassis.audit.auditor import Auditor
from chassis.audit.spool import Spool
from chassis.clock import SystemClock
from chassis.config import AuditSettings
from lepton.errors import Unavailable
from lepton.internal.v1.audit_feed_pb2 import AuditEntry
from tests.harness.mesh import serving


class Away:
    """Auth, which does not answer."""

    async def append(self, spool: str, entries: Sequence[AuditEntry]) -> int:
        raise Unavailable("UNREACHABLE")


class Doer(Echo):
    """Does what it is asked, on disk, and answers; some calls never end."""

    def __init__(self, folder: Path) -> None:
        self._done = (folder / "done").open("a", buffering=1)

    async def Change(self, request: Any, context: Any) -> Any:
        self._done.write(request.name + "\n")
        if request.text == "for ever":
            await asyncio.Event().wait()
        return request


async def main(folder: Path) -> None:
    access = PolicyReplica()
    with Spool(folder / "spool", 64 << 20) as spool:
        auditor = Auditor(spool, Away(), access, SystemClock(), AuditSettings())
        async with serving((add_echo_to_server, Doer(folder)), access=access, auditor=auditor) as mesh:
            ready = {
                "port": mesh.server.ports["client"],
                "token": mesh.signer.token("users/alice"),
                "bundle": mesh.authority.bundle_pem.decode(),
            }
            (folder / "ready.part").write_text(json.dumps(ready))
            (folder / "ready.part").rename(folder / "ready.json")
            await auditor.run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
