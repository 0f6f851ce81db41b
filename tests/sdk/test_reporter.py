"""A rank's line to its agent: what is sent, and what each answer, or none, does to a commit."""

import json
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest

from lepton.errors import Aborted, DeadlineExceeded, Unavailable
from lepton.train.reporter import Reporter


class Line:
    """The agent's end."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair()
        self.reporter = Reporter(theirs)
        self._lines: BinaryIO = self.end.makefile("rb")

    def heard(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def say(self, **line: object) -> None:
        self.end.sendall(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        self._lines.close()
        self.end.close()


@pytest.fixture
def line() -> Iterator[Line]:
    opened = Line()
    yield opened
    opened.close()


def test_reports_are_numbered_lines(line: Line) -> None:
    line.reporter.state("training")
    line.reporter.metrics({"loss": 0.5}, step=10, epoch=1, progress=0.25)
    assert line.heard() == {"seq": 1, "kind": "state", "phase": "training"}
    metrics = line.heard()
    assert metrics.pop("time") > 0
    assert metrics == {
        "seq": 2, "kind": "metrics", "step": 10, "epoch": 1, "values": {"loss": 0.5}, "progress": 0.25,
        "total_steps": 0,
    }  # fmt: skip


def test_a_commit_counts_once_it_is_acknowledged(line: Line) -> None:
    commit = line.reporter.checkpoint("sha256:aa", step=46, metrics={"accuracy": 0.9})
    assert line.heard() == {
        "seq": 1, "kind": "checkpoint", "step": 46, "manifest": "sha256:aa", "metrics": {"accuracy": 0.9},
        "id": "checkpoint-46",
    }  # fmt: skip
    with pytest.raises(DeadlineExceeded):
        commit.wait(0)
    line.say(ack="checkpoint-46")
    commit.wait(5)
    line.reporter.drain(0)
    assert commit.is_accepted


def test_a_refused_commit_stops_the_rank_with_the_reason(line: Line) -> None:
    commit = line.reporter.package("sha256:bb", metrics={})
    line.say(nack="package", reason="GENERATION_STALE")
    with pytest.raises(Aborted, match="GENERATION_STALE"):
        commit.wait(5)
    with pytest.raises(Aborted):
        line.reporter.check()
    with pytest.raises(Aborted):
        line.reporter.drain(5)


def test_a_commit_without_an_agent_fails_and_does_not_hang(line: Line) -> None:
    commit = line.reporter.checkpoint("sha256:aa", step=1, metrics={})
    line.close()
    with pytest.raises(Unavailable):
        commit.wait(5)
    line.reporter.state("still no error")


def test_a_stop_request_is_seen_with_its_deadline(line: Line) -> None:
    assert not line.reporter.is_stop_requested
    commit = line.reporter.checkpoint("sha256:aa", step=1, metrics={})
    line.say(stop=True, deadline_s=30)
    line.say(ack="checkpoint-1")
    commit.wait(5)  # the line is heard in order, so the request has been heard too
    assert line.reporter.is_stop_requested
    assert line.reporter.stop_deadline is not None


def test_outside_an_agent_nothing_is_sent_and_commits_count_at_once() -> None:
    reporter = Reporter(None)
    reporter.metrics({"loss": 1.0}, step=1, epoch=0, progress=0.0)
    assert reporter.checkpoint("sha256:aa", step=1, metrics={}).is_accepted
    reporter.drain(0)
