"""A whole service for the lifecycle test: run as a process, told to stop by a signal."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.echo import Echo, EchoMessage, add_echo_to_server
from chassis.access import PolicySnapshot
from chassis.app import App, run
from chassis.config import ServiceConfig
from chassis.credentials import Credentials
from tests.harness.pki import Authority


@dataclass(frozen=True, slots=True, kw_only=True)
class GreeterConfig(ServiceConfig):
    service: str = "greeter"
    folder: str
    fails: str = ""


class LocalIssuer:
    def __init__(self) -> None:
        self._authority = Authority()

    async def issue(self, join_token: str, csr_pem: bytes) -> tuple[bytes, bytes]:
        return self._authority.sign_request(csr_pem, "service/greeter"), self._authority.bundle_pem

    async def renew(self, csr_pem: bytes, current: Credentials) -> tuple[bytes, bytes]:
        return await self.issue("", csr_pem)


class Slow(Echo):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def Anyone(self, request: Any, context: Any) -> Any:
        (self._folder / "entered").touch()
        await asyncio.sleep(0.5)
        return EchoMessage(text="finished")


class Resource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __aenter__(self) -> "Resource":
        return self

    async def __aexit__(self, *_: object) -> None:
        (self._folder / "closed").write_text((self._folder / "loop").read_text())


async def build(config: GreeterConfig, app: App) -> None:
    folder = Path(config.folder)
    if config.fails == "build":
        raise RuntimeError("cannot build")
    await app.enter(Resource(folder))
    await app.join_mesh(issuer=LocalIssuer(), join_token="local", follows_policy=False)
    app.access.apply(PolicySnapshot(revision=1, issuer="i", audience="a"))

    async def loop() -> None:
        if config.fails == "loop":
            raise RuntimeError("the loop is broken")
        try:
            await asyncio.Event().wait()
        finally:
            (folder / "loop").write_text(f"cancelled in {os.getpid()}")

    app.loop("wait", loop)
    app.serve((add_echo_to_server, Slow(folder)))


if __name__ == "__main__":
    run(GreeterConfig, build)
