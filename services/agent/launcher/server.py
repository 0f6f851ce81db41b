"""The launcher's process: one thread that forks ranks and stores on request and tells how they end."""

import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from services.agent.launcher import child, protocol, store


@dataclass(frozen=True, slots=True)
class _Child:
    child_id: str
    pid: int
    pidfd: int


class Server:
    """Serves one agent over one socket until it closes; every child dies with this process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._children: dict[str, _Child] = {}
        self._null = os.open(os.devnull, os.O_RDWR)

    def run(self) -> None:
        """Serves until the agent closes its end, then kills what still runs."""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._reap(key.data)
                elif not self._serve():
                    for running in list(self._children.values()):
                        self._kill(running, signal.SIGKILL)
                    return

    def _serve(self) -> bool:
        message, files = protocol.receive(self._control)
        if message is None:
            return False
        try:
            self._handle(message, files)
        except OSError as error:  # no process, file or port to be had: the agent is told, the launcher lives on
            protocol.send(self._control, {"failed": message["id"], "why": str(error)})
        finally:
            for file in files:
                os.close(file)
        return True

    def _handle(self, message: Mapping[str, Any], files: Sequence[int]) -> None:
        child_id = str(message["id"])
        if message["op"] == "start":
            launcher = os.getpid()
            pid = self._fork(child_id, (self._null, *files), lambda: child.run_rank(message, launcher))
            protocol.send(self._control, {"started": child_id, "pid": pid})
        elif message["op"] == "store":
            with store.listen(str(message["host"])) as listener:
                # The store keeps the launcher's own output for its complaints.
                pid = self._fork(child_id, (self._null, 1, 2, listener.fileno()), lambda: store.run_store(3))
                answer = {"started": child_id, "pid": pid, "endpoint": store.endpoint(listener)}
            protocol.send(self._control, answer)
        elif message["op"] == "kill" and child_id in self._children:
            self._kill(self._children[child_id], int(message["signal"]))

    def _fork(self, child_id: str, files: Sequence[int], run: Callable[[], NoReturn]) -> int:
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                child.become_child(launcher, files)
                run()
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            finally:
                os._exit(1)  # never back into the launcher's own loop
        pidfd = os.pidfd_open(pid)
        self._children[child_id] = _Child(child_id, pid, pidfd)
        self._selector.register(pidfd, selectors.EVENT_READ, self._children[child_id])
        return pid

    def _kill(self, running: _Child, number: int) -> None:
        try:
            os.killpg(running.pid, number)
        except ProcessLookupError:
            signal.pidfd_send_signal(running.pidfd, number)  # not yet the leader of its own session

    def _reap(self, ended: _Child) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(ended.pid, signal.SIGKILL)  # whatever it left behind; its number is ours until it is waited for
        _, status, used = os.wait4(ended.pid, 0)
        self._selector.unregister(ended.pidfd)
        os.close(ended.pidfd)
        del self._children[ended.child_id]
        code = os.waitstatus_to_exitcode(status)
        outcome = {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}
        try:
            protocol.send(self._control, {"exit": ended.child_id, **outcome, "peak": 1024 * used.ru_maxrss})
        except OSError:
            print("the agent is gone; an exit went unreported", file=sys.stderr)
