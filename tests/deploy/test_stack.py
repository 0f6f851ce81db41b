"""What the one-machine stack starts, and when the next may start."""

from pathlib import Path
from typing import Any

import pytest

from deploy.local import probes, stack
from deploy.local.component import Component
from deploy.local.home import Home


def always(_address: str) -> probes.Probe:
    async def ask() -> bool:
        return True

    return ask


async def test_the_gateway_does_not_start_before_its_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy ended at once, and with it the start of the stack, when the inference service was a moment late."""
    monkeypatch.setattr(probes, "serving", always)
    (tmp_path / "config").mkdir()
    plan: list[Any] = list(stack.plan(Home(tmp_path)))
    steps = [[each] if isinstance(each, Component) else each for each in plan if not callable(each)]
    steps = [[each for each in step if isinstance(each, Component)] for step in steps]
    names = [[component.name for component in step] for step in steps]
    (inference,) = [component for step in steps for component in step if component.name == "inference"]
    at = {name: position for position, step in enumerate(names) for name in step}
    assert at["inference"] < at["gateway"]
    assert not await inference.is_ready()
    (tmp_path / "gateway").mkdir(exist_ok=True)
    (tmp_path / "gateway" / "bootstrap.json").write_text("{}")
    assert await inference.is_ready()
