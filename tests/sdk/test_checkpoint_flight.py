"""How the commit of a checkpoint is settled on every rank, and in which order."""

import threading
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from lepton.artifacts import ArtifactStore
from lepton.errors import Aborted, FailedPrecondition, Unavailable
from lepton.train.checkpoints import Position
from lepton.train.checkpoints.flight import Crew, Flight
from lepton.train.reporter import Commit, Reporter
from tests.sdk.test_reporter import Line

WAIT_S = 30.0
DIGEST = "sha256:aa"


class HeldStore:
    """The gang's store; a test holds up what is said of an outcome."""

    def __init__(self) -> None:
        self._store = HashStore()
        self.reached, self.gate = threading.Event(), threading.Event()

    def set(self, key: str, value: bytes) -> None:
        if key.endswith("/outcome"):
            self.reached.set()
            assert self.gate.wait(WAIT_S)
        self._store.set(key, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def flight(store: HeldStore, rank: int, reporter: Reporter) -> Commit:
    """One rank's part, which is written already."""
    crew = Crew(
        ArtifactStore("file:///nowhere"), "acme", rank=rank, world_size=2, reporter=reporter, connect=lambda: store
    )
    commit = reporter.expect("checkpoint-7")
    Flight(crew, 1, commit, Position(step=7, epoch=1, samples=70), {}).start(lambda _board, _publish: DIGEST)
    return commit


@pytest.fixture
def line() -> Any:
    opened = Line()
    yield opened
    opened.close()


def test_the_first_rank_may_leave_once_its_commit_is_settled_because_the_others_know(line: Line) -> None:
    """It ended with the outcome untold now and then, and the others waited for two minutes."""
    store = HeldStore()
    first, second = flight(store, 0, line.reporter), flight(store, 1, Reporter(None))
    assert line.heard()["id"] == "checkpoint-7"
    line.say(ack="checkpoint-7")
    assert store.reached.wait(WAIT_S)
    assert not first.is_accepted
    store.gate.set()
    for commit in (first, second):
        commit.wait(WAIT_S)
        assert commit.digest == DIGEST
    line.reporter.check()
    line.reporter.drain(0)


def test_a_refusal_ends_the_first_rank_and_lets_the_others_go_on(line: Line) -> None:
    store = HeldStore()
    store.gate.set()
    other = Reporter(None)
    first, second = flight(store, 0, line.reporter), flight(store, 1, other)
    line.heard()
    line.say(nack="checkpoint-7", reason="GENERATION_STALE")
    with pytest.raises(Aborted, match="GENERATION_STALE"):
        first.wait(WAIT_S)
    with pytest.raises(Aborted):
        line.reporter.check()
    with pytest.raises(FailedPrecondition, match="GENERATION_STALE"):
        second.wait(WAIT_S)
    other.check()


def test_an_agent_that_is_gone_settles_what_was_promised(line: Line) -> None:
    store = HeldStore()
    store.gate.set()
    first = flight(store, 0, line.reporter)
    line.heard()
    line.close()
    with pytest.raises(Unavailable, match="AGENT_GONE"):
        first.wait(WAIT_S)
