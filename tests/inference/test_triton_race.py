"""A test in which Triton died of its own race is repeated, once, with new fixtures; nothing else is."""

from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import pytest

from tests.harness.triton_race import races

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.integration

SERVER = "/opt/tritonserver/bin/tritonserver"
FRAMES = [
    f" 0# 0x000055BC0E11D52D in {SERVER}",
    " 1# 0x00007FCEFEC5A050 in /lib/x86_64-linux-gnu/libc.so.6",
    " 2# pthread_mutex_lock in /lib/x86_64-linux-gnu/libc.so.6",
    f" 3# 0x000055BC0E180E5B in {SERVER}",
    f" 4# 0x000055BC0E1768CB in {SERVER}",
    " 5# 0x00007FCEFEAD44A3 in /lib/x86_64-linux-gnu/libstdc++.so.6",
    " 6# 0x00007FCEFECA71F5 in /lib/x86_64-linux-gnu/libc.so.6",
]
"""The trace that Triton 2.51 wrote."""


def trace(frames: list[str], signal: int = 11) -> str:
    return f"I1122 started\nSignal ({signal}) received.\n" + "".join(f"{each}\n" for each in frames) + "\nW1122 more\n"


RACE = trace(FRAMES)
OTHERS = {
    "a model's process": trace(
        [*FRAMES[:3], " 3# 0x1 in /opt/tritonserver/backends/python/libtriton_python.so", *FRAMES[4:]]
    ),
    "the server's core": trace([*FRAMES[:4], " 4# 0x1 in /opt/tritonserver/lib/libtritonserver.so", *FRAMES[5:]]),
    "an abort": trace(FRAMES, signal=6),
    "the libraries alone": trace([*FRAMES[:3], *FRAMES[5:]]),
    "no trace": "Signal (11) received.\n",
    "a stop": "Signal (15) received.\n",
}

TESTS = """
    import pytest

    @pytest.fixture
    def unharmed(world):
        yield world
        assert not (world / "triton.log").exists(), "one was replaced"

    @pytest.fixture(scope="module")
    def world(tmp_path_factory):
        folder = tmp_path_factory.mktemp("world")
        with open({tally!r}, "a") as tally:
            tally.write("w")
        yield folder
        {after}

    def test_it(world, unharmed):
        with open({tally!r}) as tally:
            worlds = len(tally.read())
        if worlds <= {crashes}:
            (world / "triton.log").write_text({log!r})
            assert False, "nobody answers"

    def test_the_next(world):
        assert True
"""


def test_the_race_is_known_by_its_trace() -> None:
    assert races(RACE) == 1
    assert races(RACE + RACE) == 2


@pytest.mark.parametrize("log", OTHERS.values(), ids=OTHERS)
def test_another_end_is_not_the_race(log: str) -> None:
    assert races(log) == 0


def ran(pytester: pytest.Pytester, *, crashes: int, log: str, after: str = "pass") -> tuple[dict[str, int], int]:
    """The outcomes of these tests, and how many worlds they had."""
    with TemporaryDirectory() as elsewhere:  # its logs are not to excuse the tests here
        tally = Path(elsewhere) / "tally"
        pytester.makepyfile(dedent(TESTS).format(tally=str(tally), crashes=crashes, log=log, after=after))
        result = pytester.runpytest_subprocess("-p", "tests.harness.triton_race", f"--basetemp={elsewhere}/tests")
        return result.parseoutcomes(), len(tally.read_text())


def test_a_test_in_which_it_struck_runs_again_in_a_new_world(pytester: pytest.Pytester) -> None:
    assert ran(pytester, crashes=1, log=RACE) == ({"passed": 2, "rerun": 1}, 2)


def test_a_world_that_misses_its_server_does_not_fail_the_repeat(pytester: pytest.Pytester) -> None:
    after = "assert not (folder / 'triton.log').exists()"
    assert ran(pytester, crashes=1, log=RACE, after=after) == ({"passed": 2, "rerun": 1, "warnings": 1}, 2)


def test_a_second_time_is_a_failure(pytester: pytest.Pytester) -> None:
    assert ran(pytester, crashes=2, log=RACE) == ({"passed": 1, "failed": 1, "errors": 1, "rerun": 1}, 2)


def test_any_other_end_is_a_failure_at_once(pytester: pytest.Pytester) -> None:
    assert ran(pytester, crashes=1, log=OTHERS["the server's core"]) == ({"passed": 1, "failed": 1, "errors": 1}, 1)
