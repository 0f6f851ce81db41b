"""What a rank tells its agent and hears back: JSON lines over one unix socket, commits answered by acks.

rank -> agent   {"seq": n, "kind": "metrics", "step": s, "epoch": e, "values": {..}, "progress": 0..1, "time": ..}
                {"seq": n, "kind": "checkpoint", "id": "checkpoint-<step>", "step": s, "manifest": "sha256:..", ..}
                {"seq": n, "kind": "checkpoint_failed", "why": ".."}
                {"seq": n, "kind": "package", "id": "package", "digest": "sha256:..", "metrics": {..}}
                {"seq": n, "kind": "artifact", "name": "onnx", "digest": "sha256:.."}
                {"seq": n, "kind": "pace", "step": s, "step_s": .., "busy_s": .., "idle": true if no step is due}
                {"seq": n, "kind": "state", "phase": "training" | "evaluating" | "packaging" | "stopped" | "finished"}
agent -> rank   {"ack": id}   {"nack": id, "reason": ".."}   {"stop": true, "deadline_s": ..}
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final

from lepton.errors import Aborted, DeadlineExceeded, LeptonError, Unavailable

COMMIT_TIMEOUT_S: Final = 120.0  # longer than the trainer service takes to be restarted


class Commit:
    """Something stored by this rank that becomes part of the job once the trainer service has accepted it.

    `digest` names it; of a checkpoint that is still being written it is empty, until `wait()` has returned.
    """

    def __init__(self, commit_id: str, digest: str = "") -> None:
        self.commit_id, self.digest = commit_id, digest
        self._answer: Future[None] = Future()

    @property
    def is_accepted(self) -> bool:
        """Whether the acceptance has arrived."""
        return self._answer.done() and self._answer.exception() is None

    @property
    def refusal(self) -> BaseException | None:
        """Why the commit was refused, once it was."""
        return self._answer.exception() if self._answer.done() else None

    def accept(self) -> None:
        """Settles the commit; the first answer counts."""
        if not self._answer.done():
            self._answer.set_result(None)

    def refuse(self, error: Exception) -> None:
        """Settles the commit with the reason why it does not count."""
        if not self._answer.done():
            self._answer.set_exception(error)

    def wait(self, timeout_s: float = COMMIT_TIMEOUT_S) -> None:
        """Returns once accepted. Raises Aborted when refused, Unavailable without an agent, DeadlineExceeded."""
        try:
            self._answer.result(timeout_s)
        except FutureTimeout as error:
            raise DeadlineExceeded("COMMIT_NOT_ANSWERED", commit=self.commit_id) from error


class Reporter:
    """One rank's line to its agent; without an agent reports go nowhere and commits are accepted at once."""

    def __init__(self, channel: socket.socket | None) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._sequence = 0
        self._commits: dict[str, Commit] = {}  # what the rank was promised
        self._asked: dict[str, Commit] = {}  # what the agent was asked for
        self._stop_deadline: float | None = None
        if channel is not None:
            threading.Thread(target=self._listen, args=(channel,), name="lepton-report", daemon=True).start()

    @property
    def is_stop_requested(self) -> bool:
        """Whether the agent has asked this rank to save its work and leave."""
        return self._stop_deadline is not None

    @property
    def stop_deadline(self) -> float | None:
        """The `time.monotonic` moment at which the agent will end the rank by force, once it has asked."""
        return self._stop_deadline

    def state(self, phase: str) -> None:
        """Says what the rank is doing."""
        self._send({"kind": "state", "phase": phase})

    def metrics(
        self, values: Mapping[str, float], *, step: int, epoch: int, progress: float, total_steps: int = 0
    ) -> None:
        """Says how the training goes; `total_steps` is 0 when it is not known."""
        line = {"kind": "metrics", "step": step, "epoch": epoch, "values": dict(values), "progress": progress}
        line["total_steps"] = total_steps
        self._send({**line, "time": time.time()})

    def pace(self, *, step: int, step_s: float, busy_s: float, idle: bool = False) -> None:
        """Says how fast this rank steps; `busy_s` of `step_s` it computed itself, 0 = not known. Every rank says it.

        `idle`: the next step may take as long as it likes.
        """
        line: dict[str, Any] = {"kind": "pace", "step": step, "step_s": step_s, "busy_s": busy_s}
        self._send({**line, "idle": True} if idle else line)

    def expect(self, commit_id: str) -> Commit:
        """A commit of something that is still being written; `drain` waits for it."""
        commit = self._commits[commit_id] = Commit(commit_id)
        return commit

    def checkpoint(self, manifest: str, *, step: int, metrics: Mapping[str, float]) -> Commit:
        """Offers a stored checkpoint to the job. A commit that was expected is settled by whoever expects it."""
        line = {"kind": "checkpoint", "step": step, "manifest": manifest, "metrics": dict(metrics)}
        return self._commit(Commit(f"checkpoint-{step}", manifest), line)

    def checkpoint_failed(self, why: str) -> None:
        """Says that a checkpoint could not be written or read; the job goes on with those before it."""
        print(f"lepton: {why}", file=sys.stderr, flush=True)
        self._send({"kind": "checkpoint_failed", "why": why})

    def give_up(self, commit: Commit, error: Exception) -> None:
        """Settles a commit that is not to be, which is no reason for the run to end; whoever waits for it is told."""
        if self._commits.get(commit.commit_id) is commit:
            del self._commits[commit.commit_id]
        commit.refuse(error)

    def package(self, digest: str, *, metrics: Mapping[str, float]) -> Commit:
        """Offers the stored model package to the job."""
        return self._commit(Commit("package", digest), {"kind": "package", "digest": digest, "metrics": dict(metrics)})

    def artifact(self, name: str, digest: str) -> None:
        """Names a stored artifact as an output of the slice; whoever asked for the slice reads it from the workload."""
        self._send({"kind": "artifact", "name": name, "digest": digest})

    def check(self) -> None:
        """Raises the refusal of any commit so far: a refused rank has been superseded and must not go on."""
        for commit in list(self._commits.values()):
            if commit.refusal is not None:
                commit.wait(0)

    def drain(self, timeout_s: float = COMMIT_TIMEOUT_S) -> None:
        """Returns once every commit was accepted, or given up. Raises what `Commit.wait` raises."""
        deadline = time.monotonic() + timeout_s
        for commit in list(self._commits.values()):
            try:
                commit.wait(max(deadline - time.monotonic(), 0.0))
            except LeptonError:
                if self._commits.get(commit.commit_id) is commit:
                    raise

    def _commit(self, commit: Commit, line: Mapping[str, Any]) -> Commit:
        self._asked[commit.commit_id] = commit
        self._commits.setdefault(commit.commit_id, commit)
        if self._channel is None:
            commit.accept()
        else:
            self._send({**line, "id": commit.commit_id})
        return commit

    def _send(self, line: Mapping[str, Any]) -> None:
        if self._channel is None:
            return
        with self._lock:
            self._sequence += 1
            data = json.dumps({"seq": self._sequence, **line}, separators=(",", ":")).encode() + b"\n"
            try:
                self._channel.sendall(data)
            except OSError:
                self._lose()

    def _listen(self, channel: socket.socket) -> None:
        with channel.makefile("rb") as lines:
            try:
                for line in lines:
                    self._hear(json.loads(line))
            except OSError:
                pass  # the agent is gone; what was not answered is settled below
        self._lose()

    def _hear(self, line: Mapping[str, Any]) -> None:
        if line.get("stop"):
            self._stop_deadline = time.monotonic() + float(line.get("deadline_s", 0.0))
        elif "ack" in line and line["ack"] in self._asked:
            self._asked[line["ack"]].accept()
        elif "nack" in line and line["nack"] in self._asked:
            reason = str(line.get("reason", ""))
            self._asked[line["nack"]].refuse(Aborted("COMMIT_REFUSED", commit=str(line["nack"]), why=reason))

    def _lose(self) -> None:
        for commit in (*self._asked.values(), *self._commits.values()):
            commit.refuse(Unavailable("AGENT_GONE", commit=commit.commit_id))
