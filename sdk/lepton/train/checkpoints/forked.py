"""Writing from a fork: the child has the memory as it was, page by page copied only where training goes on to write.

What a forked child of a process with threads may do is little. This one reads tensor memory, hashes and writes files,
and speaks through one socket to a thread of its parent, which asks the gang's store and the object store for it. It
imports nothing, takes no lock but its own, runs no torch operation and no exit handler, and leaves by `_exit`. It dies
with its parent: by the kernel's signal where the forking thread is the parent's main thread, else at the next block.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

from lepton.artifacts import Digest, Written
from lepton.errors import DeadlineExceeded, LeptonError, Unavailable
from lepton.train.checkpoints.exchange import Board

SILENT_S: Final = 300.0
"""A child that writes nothing for so long is stuck, on a dead disk or on something that the fork has broken."""

_FRAME: Final = struct.Struct(">cIQ")
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PRCTL: Final = ctypes.CDLL(None, use_errno=True).prctl  # resolved here: a forked child should look nothing up
_NICE: Final = 10
_POST: Final = b"P"
_TAKE: Final = b"T"
_PUBLISH: Final = b"U"
_PROGRESS: Final = b"."
_RESULT: Final = b"R"
_FAILED: Final = b"F"
_ANSWER: Final = b"V"

Work = Callable[[Board, Callable[[Written], None], Callable[[], None]], str]


class ForkedWriter:
    """A child that writes; `result` serves it to its end."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self._channel = pid, channel
        self.is_broken = False  # it was stuck, or crashed: what forks here cannot work

    def result(self, board: Board, publish: Callable[[Written], None], silent_s: float = SILENT_S) -> str:
        """What the child's work returned. Raises Unavailable when it failed or died, and kills it when it is stuck."""
        self._channel.settimeout(silent_s)
        try:
            with self._channel:
                return self._serve(board, publish)
        except TimeoutError as error:
            self.is_broken = True
            raise _died(f"it made no progress for {silent_s:.0f} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # it has said its last word
            with suppress(ChildProcessError):
                _, status = os.waitpid(self.pid, 0)
                self.is_broken |= os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL

    def _serve(self, board: Board, publish: Callable[[Written], None]) -> str:
        while True:
            try:
                kind, key, value = _receive(self._channel)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise
                raise _died("it died") from error
            if kind == _RESULT:
                return value.decode()
            if kind == _FAILED:
                raise Unavailable("CHECKPOINT_NOT_WRITTEN", why=value.decode())
            if kind == _PROGRESS:
                continue
            try:
                answer = self._do(kind, key, value, board, publish)
            except (LeptonError, OSError, RuntimeError) as error:  # torch's stores raise RuntimeError
                _send(self._channel, _FAILED, "", why(error).encode())
            else:
                _send(self._channel, _ANSWER, "", answer)

    @staticmethod
    def _do(kind: bytes, key: str, value: bytes, board: Board, publish: Callable[[Written], None]) -> bytes:
        if kind == _POST:
            board.post(key, value)
        elif kind == _TAKE:
            return board.take(key, float(value))
        else:
            document = json.loads(value)
            publish(Written(digest=Digest(document["digest"]), size=document["size"], path=document["path"]))
        return b""


def fork(work: Work) -> ForkedWriter:
    """Does the work in a forked child. Raises OSError when no process can be had."""
    ours, theirs = socket.socketpair()
    parent, is_main = os.getpid(), threading.current_thread() is threading.main_thread()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what this module is careful with
            pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _child(work, theirs, parent, is_main)
    theirs.close()
    return ForkedWriter(pid, ours)


class _Relay:
    """The child's end: its board and its publisher are in the parent."""

    def __init__(self, channel: socket.socket, parent: int) -> None:
        self._channel, self._parent = channel, parent

    def post(self, key: str, value: bytes) -> None:
        """Writes a key."""
        self._ask(_POST, key, value)

    def take(self, key: str, timeout_s: float) -> bytes:
        """The key's value."""
        return self._ask(_TAKE, key, str(timeout_s).encode())

    def publish(self, written: Written) -> None:
        """Makes a finished file part of the store."""
        document = {"digest": written.digest, "size": written.size, "path": written.path}
        self._ask(_PUBLISH, "", json.dumps(document).encode())

    def progress(self) -> None:
        """Says that it lives, and ends at once when nobody is there to hear it."""
        if os.getppid() != self._parent:
            os._exit(1)
        _send(self._channel, _PROGRESS, "", b"")

    def _ask(self, kind: bytes, key: str, value: bytes) -> bytes:
        _send(self._channel, kind, key, value)
        answered, _, answer = _receive(self._channel)
        if answered == _FAILED:
            raise DeadlineExceeded("CHECKPOINT_NOT_WRITTEN", why=answer.decode())
        return answer


def _child(work: Work, channel: socket.socket, parent: int, is_main: bool) -> NoReturn:
    try:
        gc.disable()  # a collection might run finalizers of what is the parent's
        _PRCTL(_PR_SET_NAME, b"lepton-save", 0, 0, 0)
        if is_main:  # the kernel watches the thread that forked, which else may end before the process does
            _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # its parent decides, and takes it along
        for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        _close_all_but(channel.fileno())
        with suppress(OSError):
            os.nice(_NICE)
        relay = _Relay(channel, parent)
        relay.progress()
        try:
            _send(channel, _RESULT, "", work(relay, relay.publish, relay.progress).encode())
        except BaseException as error:  # noqa: BLE001  # there is no other place where it could be told
            _send(channel, _FAILED, "", why(error).encode())
    finally:
        os._exit(0)


def _close_all_but(kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        if standard != kept:
            os.dup2(null, standard)
    os.closerange(3, kept)
    os.closerange(max(kept, 2) + 1, os.sysconf("SC_OPEN_MAX"))


def why(error: BaseException) -> str:
    """An error in the words that a user is shown."""
    if isinstance(error, LeptonError):
        if error.reason == "CHECKPOINT_NOT_WRITTEN":
            return error.metadata["why"]
        fields = getattr(error, "fields", None) or {}
        return "; ".join(f"{field} {problem}" for field, problem in fields.items()) or error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


def _died(how: str) -> Unavailable:
    return Unavailable("CHECKPOINT_NOT_WRITTEN", why=f"the writing process failed: {how}")


def _send(channel: socket.socket, kind: bytes, key: str, value: bytes) -> None:
    name = key.encode()
    channel.sendall(_FRAME.pack(kind, len(name), len(value)) + name + value)


def _receive(channel: socket.socket) -> tuple[bytes, str, bytes]:
    kind, name, value = _FRAME.unpack(_exactly(channel, _FRAME.size))
    return kind, _exactly(channel, name).decode(), _exactly(channel, value)


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        block = channel.recv(min(count - len(data), 1 << 20))
        if not block:
            raise ConnectionError("the other end is gone")
        data += block
    return bytes(data)
