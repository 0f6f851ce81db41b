"""Repeats a test, once and visibly, in which Triton died of its own race.

From 2.39 (23.10), which hears of cancelled calls, until 2.57 (25.04) Triton dies now and then when a caller goes away
in the moment in which the answer is ready: the handler of gRPC calls uses the state of a call that another thread has
released (triton-inference-server/server#8034, mended by its #8078; ARCHITECTURE.md, "Known limits"). It is known by its
trace: a segmentation fault below a thread of the gRPC front end, in the server's own program and the C and C++
libraries and nowhere else. A test in which it happened says nothing of Lepton, so its fixtures are taken down, of
whatever scope, and it runs again; a second time is a failure, and a server that dies anywhere else is one at once.
"""

import re
import time
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

_TRACE = re.compile(r"^Signal \((\d+)\) received\.\n((?: *\d+# .*\n)+)", re.MULTILINE)
_LIBRARIES = {"libc.so.6", "libstdc++.so.6"}
_SERVER = "tritonserver"
_SIGSEGV = "11"


def races(log: str) -> int:
    """How often the server that wrote this log died of it."""
    return sum(_is_the_race(*found.groups()) for found in _TRACE.finditer(log))


def _is_the_race(signal: str, frames: str) -> bool:
    places = [Path(line.rpartition(" in ")[2]).name for line in frames.splitlines()]
    return signal == _SIGSEGV and places[1:].count(_SERVER) >= 1 and {*places} == {_SERVER, *_LIBRARIES}


class Repeats:
    """What is known of the logs below one folder, and when the tests began that may have written there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, int] = {}
        self._began = (time.time(), time.time())

    def begins(self) -> None:
        """Another test: what happened since the one before it began may be why this one fails."""
        self._began = (self._began[1], time.time())

    def excused(self) -> list[Path]:
        """The logs in which the race has struck since; each strike excuses one failure."""
        found = []
        for log in self._folder.rglob("triton.log"):
            if log.stat().st_mtime < self._began[0]:
                continue
            count = races(log.read_text(errors="replace"))
            if count > self._known.get(log, 0):
                found.append(log)
            self._known[log] = count
        return found


_REPEATS = pytest.StashKey[Repeats]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    repeats = item.config.stash.setdefault(_REPEATS, Repeats(item.config._tmp_path_factory.getbasetemp()))  # type: ignore[attr-defined]
    repeats.begins()
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    first = next((each for each in reports if each.failed), None)
    if first is not None and repeats.excused():
        first.outcome = "rerun"  # type: ignore[assignment]
        item.ihook.pytest_runtest_logreport(report=first)
        try:
            item.session._setupstate.teardown_exact(None)
        except (Exception, pytest.fail.Exception) as error:  # fixtures that find their Triton gone: this is why they go
            item.warn(pytest.PytestWarning(f"taken down after Triton's own race: {error!r}"))
        item._initrequest()  # type: ignore[attr-defined]
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for each in reports:
        item.ihook.pytest_runtest_logreport(report=each)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    return ("rerun", "R", ("RERUN", {"yellow": True})) if str(report.outcome) == "rerun" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for each in terminalreporter.getreports("rerun"):
        terminalreporter.line(f"RERUN {each.nodeid}: Triton died of its own race (triton-inference-server/server#8034)")
