"""A rank's session under a played agent: checkpoints on notice, the end of a script, and going on from an older one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lepton.artifacts import ArtifactStore
from lepton.train.checkpoints import Checkpoint, Position, save

pytestmark = pytest.mark.integration

ON_NOTICE = """
import sys, torch
from lepton import train
step = 0
while not train.should_stop():
    step += 1
train.checkpoint({"w": torch.full((1000,), 7.0)}, step=step).wait()
print("saved", flush=True)
sys.exit(train.EXIT_STOPPED)
"""

WITHOUT_WAITING = """
import torch
from lepton import train
train.checkpoint({"w": torch.full((1000,), 7.0)}, step=3)
"""

THEN_FAILING = (
    WITHOUT_WAITING
    + """
raise ValueError("wrong")
"""
)

RESUMING = """
from lepton import train
saved = train.resume()
print(saved.position.step, float(saved.state["w"][0]), flush=True)
"""


class Rank:
    """A process that runs a script as a rank of one, and the agent's end of its line."""

    def __init__(self, folder: Path, script: str, **environment: str) -> None:
        self.store = ArtifactStore(f"file://{folder}/store")
        ours, theirs = socket.socketpair()
        self._line = ours
        self._reports = ours.makefile("rb")
        place = {
            "LEPTON_PROJECT": "acme", "LEPTON_ARTIFACTS": self.store.url, "LEPTON_REPORT_FD": str(theirs.fileno()),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **place, **environment},
            pass_fds=(theirs.fileno(),),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()

    def say(self, **line: object) -> None:
        self._line.sendall(json.dumps(line).encode() + b"\n")

    def report(self, kind: str) -> dict[str, object]:
        for line in self._reports:
            document: dict[str, object] = json.loads(line)
            if document["kind"] == kind:
                return document
        raise AssertionError(f"no {kind} was reported: {self.process.communicate()}")

    def ends(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=110)
        return self.process.returncode, out, err


def test_a_rank_that_is_told_to_stop_saves_and_leaves_in_time(tmp_path: Path) -> None:
    rank = Rank(tmp_path, ON_NOTICE)
    rank.say(stop=True, deadline_s=60)
    report = rank.report("checkpoint")
    rank.say(ack=report["id"])
    assert rank.ends()[:2] == (75, "saved\n")
    assert float(Checkpoint(rank.store, "acme", str(report["manifest"])).read("w")[0]) == 7.0


def test_a_script_that_ends_without_waiting_still_gets_its_checkpoint(tmp_path: Path) -> None:
    rank = Rank(tmp_path, WITHOUT_WAITING)
    report = rank.report("checkpoint")
    rank.say(ack=report["id"])
    assert rank.ends()[0] == 0
    assert Checkpoint(rank.store, "acme", str(report["manifest"])).position.step == 3


def test_a_script_that_fails_does_not_wait_for_its_checkpoint(tmp_path: Path) -> None:
    code, _, errors = Rank(tmp_path, THEN_FAILING).ends()  # nobody answers the commit
    assert code == 1
    assert "ValueError: wrong" in errors


def test_a_rank_goes_on_from_the_older_checkpoint_and_reports_why(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store")
    older, newest = (
        save(store, "acme", {"w": torch.full((10,), float(step))}, position=Position(step=step, epoch=0, samples=0))
        for step in (1, 2)
    )
    next(tmp_path.rglob(newest.removeprefix("sha256:"))).unlink()
    rank = Rank(tmp_path, RESUMING, LEPTON_RESUME=newest, LEPTON_RESUME_OLDER=older)
    assert newest in str(rank.report("checkpoint_failed")["why"])
    code, out, errors = rank.ends()
    assert (code, out) == (0, "1 1.0\n")
    assert f"the checkpoint {newest} cannot be read" in errors
