"""Starts the processes of a node's slices, and owns them with all that they start: `python -I -S warden.py PARENT FD`.

It talks JSON packets over the socket FD, with the files of a process riding along:

agent -> warden   {"start": id, "argv": [..], "env": {..}, "folder": ..} with stdout, stderr and the report socket
                  {"kill": id, "signal": 15 | 9}
                  {"tasks": [[id, {env of its own}], ..], "argv": [..], "env": {..}, "root": ..}
                  {"kill_tasks": [id, ..], "signal": ..}
warden -> agent   {"started": id, "pid": ..}   {"failed": id, "why": ..}   {"exit": id, "status": ..}
                  {"began": [[id, pid], ..], "ended": [[id, status, words, has left files], ..]}

Tasks are many processes in one order: each in a folder of its own below root, its output kept here until it has ended,
no line for reports. A status of null says that it never started; words are why, or the last line of one that failed.

Whatever a process leaves behind when it ends, daemons too, is killed before its exit is told: it becomes a child of
the warden, and its environment names whose it was. When PARENT ends, in whatever way, everything is killed.
"""

import array
import collections
import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import socket
import sys
from pathlib import Path

MARK = "LEPTON_PROCESS"  # the variable that names a process's id to all that it starts
REPORT_FD = 3
MAX_PACKET = 1 << 20
_MAX_FILES = 8
_AT_ONCE = 8  # tasks that are started before others are heard again
_LAST = 8 << 10  # bytes of a failed task's output that are looked at
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_OURS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_DEFAULT = (*_OURS, signal.SIGPIPE, signal.SIGXFSZ)  # what this interpreter handles or ignores and a process must not


class Warden:
    """All processes of one agent."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ids: dict[int, str] = {}  # by pid
        self._pids: dict[str, int] = {}
        self._suspects: dict[int, set[str]] = {}  # an orphan without the mark -> the processes it may be of
        self.waiting: collections.OrderedDict[str, tuple[dict, dict]] = collections.OrderedDict()  # type: ignore[type-arg]
        self._outputs: dict[str, tuple[int, str]] = {}  # of tasks: the file of their output, their folder
        self._began: list[tuple[str, int]] = []
        self._ended: list[tuple[str, int | None, str, bool]] = []

    def take(self) -> bool:
        """Carry out one order; false once the agent has gone."""
        data, files = _receive(self._control)
        if not data:
            return False
        order = json.loads(data)
        if "start" in order:
            self._start(order["start"], order, files)
        elif "tasks" in order:
            self.waiting.update((task, (order, own)) for task, own in order["tasks"])
        elif "kill_tasks" in order:
            self._kill_tasks(order["kill_tasks"], order["signal"])
        elif order["kill"] in self._pids:
            _signal_group(self._pids[order["kill"]], order["signal"])
        return True

    def reap(self) -> None:
        """Collect whatever has ended."""
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                process = self._ids.get(ended.si_pid)
                if process is not None:
                    self._clear_up(ended.si_pid, process)  # its number is its own until it is waited for
                    del self._ids[ended.si_pid], self._pids[process]
                self._suspects.pop(ended.si_pid, None)
                _, status = os.waitpid(ended.si_pid, 0)
                if process in self._outputs:
                    self._end_task(process, status)
                elif process is not None:
                    self._say({"exit": process, "status": status})

    def start_tasks(self) -> None:
        """Start some of the tasks that wait."""
        for _ in range(min(_AT_ONCE, len(self.waiting))):
            task, (order, own) = self.waiting.popitem(last=False)
            self._start_task(task, order, own)

    def tell(self) -> None:
        """Say what has become of tasks since the last time."""
        if self._began or self._ended:
            self._say({"began": self._began, "ended": self._ended})
            self._began, self._ended = [], []

    def _start_task(self, task: str, order: dict, own: dict) -> None:  # type: ignore[type-arg]
        folder = f"{order['root']}/{task}"
        output = -1
        try:
            os.mkdir(folder, 0o700)  # noqa: PTH102 - as below, paths as objects would cost more than the calls
            output = os.open(folder + ".output", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.unlink(folder + ".output")  # noqa: PTH108
            os.chdir(folder)
            pid = os.posix_spawnp(
                order["argv"][0],
                order["argv"],
                {**order["env"], **own, "HOME": folder, MARK: task},
                file_actions=(
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ),
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106
            if output >= 0:
                os.close(output)
            self._ended.append((task, None, f"cannot run {order['argv'][0]}: {why}", False))
        else:
            self._ids[pid], self._pids[task] = task, pid
            self._outputs[task] = output, folder
            self._began.append((task, pid))
        finally:
            os.chdir("/")

    def _end_task(self, task: str, status: int) -> None:
        output, folder = self._outputs.pop(task)
        words = _last_line(output) if status else ""
        os.close(output)
        has_files = False
        try:
            os.rmdir(folder)  # noqa: PTH106
        except OSError:
            has_files = os.path.exists(folder)  # noqa: PTH110
        self._ended.append((task, status, words, has_files))

    def _kill_tasks(self, tasks: list[str], number: int) -> None:
        for task in tasks:
            if self.waiting.pop(task, None) is not None:
                self._ended.append((task, None, "", False))
            elif task in self._pids:
                _signal_group(self._pids[task], number)

    def end(self) -> None:
        """Kill everything."""
        for pid in self._ids:
            _signal_group(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                for pid in _children():
                    _kill(pid)
                os.waitpid(-1, 0)  # what it leaves becomes ours

    def _start(self, process: str, order: dict, files: list[int]) -> None:  # type: ignore[type-arg]
        actions: list[tuple[object, ...]] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, file, at) for at, file in enumerate(files, start=1)]
        environment = {**order["env"], MARK: process, "LEPTON_REPORT_FD": str(REPORT_FD)}
        try:
            os.chdir(order["folder"])
            # No code between fork and exec, and no copy of this process: as cheap as a process can be.
            pid = os.posix_spawnp(
                order["argv"][0],
                order["argv"],
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._say({"failed": process, "why": f"cannot run {order['argv'][0]}: {why}"})
        else:
            self._ids[pid], self._pids[process] = process, pid
            self._say({"started": process, "pid": pid})
        finally:
            os.chdir("/")
            for file in files:
                os.close(file)

    def _clear_up(self, pid: int, process: str) -> None:
        """Kill what a process has left: its group, and whatever of it has become ours."""
        _signal_group(pid, signal.SIGKILL)
        while orphans := [each for each in _children() if each not in self._ids and self._is_of(each, process)]:
            for orphan in orphans:
                _kill(orphan)
                os.waitpid(orphan, 0)
                self._suspects.pop(orphan, None)

    def _is_of(self, orphan: int, process: str) -> bool:
        """Whether an orphan was started by a process that ends now, or by one that has ended.

        One that hides whose it is lives until every process has ended that it may be of.
        """
        if orphan not in self._suspects:
            owner = _owner(orphan)
            if owner:
                return owner == process or owner not in self._pids
            self._suspects[orphan] = set(self._pids)
        self._suspects[orphan].discard(process)
        return not self._suspects[orphan]

    def _say(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # the agent is gone; reading tells
            self._control.send(json.dumps(message).encode())


def main(parent: int, number: int) -> None:
    """Serve until the agent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # the variables of all its processes pass through its memory
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    no_core = 1 if hard == resource.RLIM_INFINITY else min(hard, 1)  # see confinement.py
    resource.setrlimit(resource.RLIMIT_CORE, (no_core, no_core))  # of those too
    # The agent may leave copies of its own files open in what it starts (uvloop does); no process may write to its log.
    os.closerange(3, number)
    os.closerange(number + 1, os.sysconf("SC_OPEN_MAX"))
    waking, woken = socket.socketpair()
    for end in (waking, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    for each in _OURS:
        signal.signal(each, lambda *_: None)  # SIGTERM and SIGINT are for the agent to act on
    _prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:
        sys.exit(1)
    control = socket.socket(fileno=number)
    control.set_inheritable(False)  # what a process could say here, the agent would believe to be ours
    warden = Warden(control)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(waking, selectors.EVENT_READ)
    is_over = False
    while not is_over:
        for key, _ in selector.select(0 if warden.waiting else None):
            if key.fileobj is control:
                is_over |= not warden.take()
            else:
                heard = waking.recv(4096)
                is_over |= signal.SIGHUP in heard
                warden.reap()
        warden.start_tasks()
        warden.tell()
    warden.end()


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """A packet with its files, which no process inherits: `socket.recv_fds` passes that flag on only since 3.12."""
    files = array.array("i")
    room = socket.CMSG_LEN(_MAX_FILES * files.itemsize)
    data, extra, _, _ = control.recvmsg(MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    return data, list(files)


def _last_line(file: int) -> str:
    """The last line of a file that says something."""
    size = os.fstat(file).st_size
    lines = os.pread(file, _LAST, max(0, size - _LAST)).decode(errors="replace").replace("\0", "\ufffd").splitlines()
    return next((line.strip()[:1000] for line in reversed(lines) if line.strip()), "")


def _owner(pid: int) -> str:
    """Which process's mark another process carries; empty when it carries none (any more)."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    start = f"{MARK}=".encode()
    marks = (each[len(start) :] for each in environment.split(b"\0") if each.startswith(start))
    return next(marks, b"").decode(errors="replace")


def _children() -> list[int]:
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _kill(pid: int) -> None:
    # The group of a child that leads none is the warden's own: never that.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) != os.getpgid(0):
            os.killpg(os.getpgid(pid), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
