"""The gateway as foreign clients meet it: Envoy with tokens and TLS, one Triton with the example models behind it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.agent.ports import Port
from services.agent.served_model import ServedModel, materialise
from services.agent.triton_server import TritonServer
from services.inference.envoy import Endpoint, Route, Routes, Target
from tests.harness.serving import RunningGateway, gateway, triton_tools
from tests.inference.clients.example_models import PROJECT


class Front(Protocol):
    """Where clients call, and with what."""

    @property
    def address(self) -> str:
        """`host:port` of the gateway."""
        ...

    @property
    def certificate(self) -> Path:
        """Whom a client trusts, as PEM."""
        ...

    @property
    def token(self) -> str:
        """An access token."""
        ...


@dataclass(frozen=True, slots=True)
class Stack:
    """A gateway of the tests' own."""

    front: RunningGateway

    @property
    def address(self) -> str:
        return f"localhost:{self.front.port}"

    @property
    def certificate(self) -> Path:
        return self.front.gateway.certificate

    @property
    def token(self) -> str:
        return self.front.authority.token(PROJECT)

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@asynccontextmanager
async def served(folder: Path, models: Sequence[ServedModel]) -> AsyncIterator[TritonServer]:
    """One Triton that has loaded the models, none of them proved."""
    with closing(Port()) as port:
        materialise(folder / "repository", models)
        triton = TritonServer(
            tools=triton_tools(), repository=folder / "repository", log=folder / "log", port=port.number, start_s=60
        )
        async with triton:
            for model in models:
                await triton.load(model.name, deadline_s=60)
            yield triton


def routes(models: Sequence[ServedModel], endpoint: Endpoint) -> tuple[Route, ...]:
    """All of them, to one server."""
    target = Target(revision=1, endpoints=(endpoint,))
    return tuple(Route(model=model.name, targets=(target,)) for model in models)


@asynccontextmanager
async def serving(folder: Path, models: Sequence[ServedModel]) -> AsyncIterator[Stack]:
    """One Triton with the models, routed by a gateway."""
    async with gateway(folder / "envoy") as front, served(folder, models) as triton:
        await front.route(Routes(routes=routes(models, Endpoint.parse(triton.endpoint))))
        yield Stack(front=front)
