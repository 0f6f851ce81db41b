"""Random requests for every method of every service: each is answered, or refused on purpose and without internals."""

import os
from pathlib import Path
from secrets import randbits
from typing import Final

import pytest

from tests.fuzz.campaign import Campaign, Report
from tests.fuzz.world import SERVICES, service
from tests.harness.protos import every_method

DEFAULT: Final = {"auth": 1_500, "scheduler": 3_000, "trainer": 3_000, "inference": 4_500}
SLOW: Final = {"auth": 60_000, "scheduler": 120_000, "trainer": 180_000, "inference": 240_000}
_AT_ONCE: Final = 5_000
"""Requests to one world: what they leave behind makes lists longer and longer."""
_SEED: Final = 20_261_122


def first_seed() -> int:
    """The same every time, but for `make test-all`, which draws new ones."""
    return randbits(32) if os.environ.get("LEPTON_EXAMPLES") == "new" else _SEED


async def fuzzed(name: str, inputs: int, folder: Path) -> list[Report]:
    """So many requests to a service, to a new one every now and then."""
    reports: list[Report] = []
    seed = first_seed()
    while (left := inputs - sum(each.inputs for each in reports)) > 0:
        print(f"{name}: seed {seed}")
        (folder / str(seed)).mkdir()
        async with service(name, folder / str(seed)) as running:
            reports.append(await Campaign(running, seed).run(min(left, _AT_ONCE)))
        seed += 1
    return reports


def assert_clean(reports: list[Report]) -> None:
    wrong = [report.text() for report in reports if report.findings]
    assert not wrong, "\n".join(wrong)
    codes = {code for report in reports for code in report.codes}
    # Otherwise the requests do not get past the door, and show nothing.
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED"} <= codes, codes


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SERVICES)
async def test_every_request_is_answered_or_refused_on_purpose(name: str, tmp_path: Path) -> None:
    assert_clean(await fuzzed(name, DEFAULT[name], tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SERVICES)
async def test_every_one_of_hundreds_of_thousands_is(name: str, tmp_path: Path) -> None:
    assert_clean(await fuzzed(name, SLOW[name], tmp_path))


async def test_no_method_is_left_out(tmp_path: Path) -> None:
    """Of those that take one request, and answer with one or with a stream."""
    wanted = {
        f"/{each.containing_service.full_name}/{each.name}" for each in every_method() if not each.client_streaming
    }
    reached: set[str] = set()
    for name in SERVICES:
        (tmp_path / name).mkdir()
        async with service(name, tmp_path / name) as running:
            reached |= {method.path for method in running.unary}
    assert wanted - reached == set()


async def test_each_method_gets_its_share(tmp_path: Path) -> None:
    async with service("trainer", tmp_path) as running:
        report = await Campaign(running, _SEED).run(200)
        assert set(report.by_method) == {method.path for method in running.unary}
