"""One warm launcher for all gangs of these tests, and a way to run cases in a gang."""

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio
import torch
from safetensors.torch import load_file

from services.agent.launcher import Exit, LauncherClient
from tests.harness.gang import start_gang
from tests.harness.ranks import networks


@dataclass(frozen=True)
class Ran:
    """What a case came to."""

    losses: list[float]
    evaluated: float
    weights: Mapping[str, torch.Tensor]


class Cases:
    """Runs cases (see tests.harness.ranks.dividing) and compares them with a plain loop."""

    def __init__(self, launcher: LauncherClient, folder: Path) -> None:
        self._launcher, self.folder = launcher, folder

    async def run(self, world_size: int, cases: Sequence[Mapping[str, Any]], **environment: str) -> dict[str, Ran]:
        gang = await start_gang(
            self._launcher,
            world_size=world_size,
            folder=self.folder,
            entry="tests.harness.ranks.dividing",
            argv=(json.dumps(cases), str(self.folder)),
            env={"LEPTON_ARTIFACTS": f"file://{self.folder}/artifacts", **environment},
        )
        assert await gang.finish() == [Exit(code=0)] * world_size, gang.errors
        return {case["name"]: self._read(case["name"]) for case in cases}

    def _read(self, name: str) -> Ran:
        told = json.loads((self.folder / f"{name}.json").read_text())
        return Ran(told["losses"], told["evaluated"], load_file(self.folder / f"{name}.safetensors"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def launcher() -> AsyncIterator[LauncherClient]:
    async with LauncherClient(os.environ) as opened:
        await opened.ready()
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def cases(launcher: LauncherClient, tmp_path: Path) -> Cases:
    return Cases(launcher, tmp_path)


def is_alike(ran: Ran, network: str, *, first: int = 0, last: int | None = None, tolerance: float = 1e-5) -> bool:
    """Whether the losses of the steps from `first` to `last`, and the weights, are those of one process, relatively."""
    losses, weights = networks.alone(network, networks.batches(network)[:last])
    scale = max(float(tensor.abs().max()) for tensor in weights.values())
    return (
        torch.allclose(torch.tensor(ran.losses), torch.tensor(losses[first:]), rtol=tolerance, atol=0)
        and set(ran.weights) == set(weights)
        and all(
            torch.allclose(ran.weights[name], tensor, rtol=tolerance, atol=tolerance * scale)
            for name, tensor in weights.items()
        )
    )
