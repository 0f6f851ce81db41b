"""The gateway's access log keeps within its bounds and loses no line, with a real Envoy."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from chassis.clock import SystemClock
from chassis.config import ConfigError
from services.inference.config import GatewaySettings
from services.inference.envoy import EnvoyAdmin
from services.inference.envoy.log_rotation import LogRotation
from tests.harness.clock import ManualClock
from tests.harness.gateway_caller import Caller, channel
from tests.harness.serving import RunningGateway, gateway
from tests.harness.wait import until

pytestmark = pytest.mark.integration
FULL = 1
"""A file of so many bytes is set aside at the first look."""


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with gateway(tmp_path / "envoy") as running:
        yield running


def rotation(front: RunningGateway, *, file_bytes: int = FULL, files: int = 4) -> LogRotation:
    path, admin = front.gateway.access_log, front.admin
    return LogRotation(path=path, admin=admin, clock=SystemClock(), file_bytes=file_bytes, files=files)


def written(path: Path) -> list[str]:
    """Who called, by the lines of one file."""
    return [json.loads(line)["principal"] for line in path.read_text().splitlines()] if path.exists() else []


def logs(front: RunningGateway) -> dict[str, Path]:
    return {path.name: path for path in front.gateway.directory.glob("access.log*")}


async def called(front: RunningGateway, connection: grpc.aio.Channel, names: Sequence[str]) -> None:
    """Every one of these has called, and refused as they were, Envoy has written it down."""
    for name in names:
        token = front.authority.token("acme", subject=name)
        assert (await Caller.of(connection, token).refused("acme.digits"))[0] == "NOT_FOUND"
    await until(lambda: {*names} <= {who for path in logs(front).values() for who in written(path)}, 15)


async def test_a_full_log_is_set_aside_and_no_line_is_lost(front: RunningGateway) -> None:
    names = [f"users/u{number}" for number in range(9)]
    async with channel(front) as connection:
        for at in range(0, 9, 3):
            await called(front, connection, names[at : at + 3])
            await rotation(front).turn()
    await until(lambda: len(logs(front)) == 4, 10)
    found = logs(front)
    assert [written(found[f"access.log.{number}"]) for number in (3, 2, 1)] == [names[:3], names[3:6], names[6:]]
    assert written(found["access.log"]) == []


async def test_what_envoy_has_not_written_yet_comes_after_it(front: RunningGateway) -> None:
    """Calls go on while the file is set aside: nothing is lost, nothing comes twice."""
    async with channel(front) as connection:
        await called(front, connection, ["users/first"])
        names = [f"users/u{number}" for number in range(40)]
        for at, name in enumerate(names):
            assert (await Caller.of(connection, front.authority.token("acme", subject=name)).refused("acme.x"))[0]
            if at % 10 == 5:
                await rotation(front, files=50).turn()
        await called(front, connection, ["users/last"])
    everybody = sorted(who for path in logs(front).values() for who in written(path))
    assert everybody == sorted(["users/first", *names, "users/last"])


async def test_the_oldest_is_overwritten(front: RunningGateway) -> None:
    async with channel(front) as connection:
        for number in range(4):
            await called(front, connection, [f"users/u{number}"])
            await rotation(front, files=2).turn()
    await until(lambda: {*logs(front)} == {"access.log", "access.log.1", "access.log.2"}, 10)
    assert [written(logs(front)[f"access.log.{number}"]) for number in (2, 1)] == [["users/u2"], ["users/u3"]]


async def test_a_log_that_is_not_full_stays(front: RunningGateway) -> None:
    async with channel(front) as connection:
        await called(front, connection, ["users/u"])
    await rotation(front, file_bytes=1 << 20).turn()
    assert {*logs(front)} == {"access.log"}


async def test_a_service_that_ended_before_it_told_envoy_tells_it_later(front: RunningGateway) -> None:
    async with channel(front) as connection:
        await called(front, connection, ["users/before"])
        log = front.gateway.access_log
        log.rename(log.with_name("access.log.1"))
        await called(front, connection, ["users/meanwhile"])
        assert {*logs(front)} == {"access.log.1"}  # the control: Envoy writes on where it wrote
        await rotation(front, file_bytes=1 << 20).turn()
        await until(log.exists, 10)
        await called(front, connection, ["users/after"])
    assert written(log) == ["users/after"]


async def test_while_envoy_is_away_it_is_told_again_and_again(tmp_path: Path) -> None:
    log, clock = tmp_path / "access.log", ManualClock()
    log.write_text("a line\n")
    away = LogRotation(path=log, admin=EnvoyAdmin(tmp_path), clock=clock, file_bytes=FULL, files=1)
    for _ in range(2):
        with pytest.raises(OSError, match=r"admin\.address"):
            await away.turn()
    assert (tmp_path / "access.log.1").read_text() == "a line\n"


@pytest.mark.parametrize("setting", ["access_log_bytes", "access_log_files"])
def test_a_bound_of_nothing_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=setting):
        GatewaySettings(directory=tmp_path, address="127.0.0.1:0", **{setting: 0})  # type: ignore[arg-type]
