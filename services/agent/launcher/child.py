"""The life of a forked rank: cut loose from the launcher, given its files and environment, run like any program."""

import atexit
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from services.agent.confinement import Confinement, apply
from services.agent.launcher.death import die_with
from services.agent.launcher.heap import keep_what_is_freed
from services.agent.launcher.program import run_program
from services.agent.stall import STACK_SIGNAL

REPORT_FD: Final = 3
SECRETS_FD: Final = 4


def become_child(launcher: int, files: Sequence[int]) -> None:
    """Cuts a fresh fork loose: own session, no handlers, no files but `files`, which become 0, 1, 2 .."""
    os.setsid()
    die_with(launcher)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    safe = [os.dup(file) if file < len(files) else file for file in files]
    for target, file in enumerate(safe):
        os.dup2(file, target, inheritable=True)
    os.closerange(len(files), os.sysconf("SC_OPEN_MAX"))


def run_rank(start: Mapping[str, Any], launcher: int) -> NoReturn:
    """Runs the rank's program to its end."""

    def run() -> None:
        apply(Confinement.of_json(start["confinement"]))
        die_with(launcher)  # once more: the kernel forgets it when the user changes
        entry, argv = str(start["entry"]), [str(argument) for argument in start["argv"]]
        os.environ.clear()
        os.environ.update(start["env"])
        os.environ["LEPTON_REPORT_FD"] = str(REPORT_FD)
        if start.get("has_secrets"):
            with os.fdopen(SECRETS_FD, "rb") as secrets:
                os.environ.update(json.loads(secrets.read()))
        time.tzset()
        keep_what_is_freed(os.environ)
        sys.stdin = open(0)  # noqa: SIM115  # lives as long as the process
        sys.stdout = open(1, "w", buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
        os.chdir(start["cwd"])
        _forget_the_launcher()
        _set_threads()
        run_program(entry, argv)

    run_to_the_end(run)


def run_to_the_end(program: Callable[[], None]) -> NoReturn:
    """Runs a program and leaves with its exit code, without the interpreter's own teardown.

    That teardown destroys what is dangerous to destroy (see program.py); what a program relies on (its threads, exit
    handlers, flushed output) is done here instead.
    """
    faulthandler.register(STACK_SIGNAL, file=2, all_threads=True)  # asked for when the rank seems to hang
    code = _guarded(program)
    code = _guarded(_wind_up) or code
    os._exit(code)


def _forget_the_launcher() -> None:
    # What the launcher drew or looked up once must not be the same in every rank of every job.
    random.seed()
    tempfile.tempdir = None
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    processes: Any = sys.modules.get("multiprocessing.process")
    if processes is not None:
        processes.current_process().authkey = os.urandom(32)


def _set_threads() -> None:
    torch: Any = sys.modules.get("torch")
    number = os.environ.get("OMP_NUM_THREADS", "1")
    if torch is not None and number.isdecimal() and int(number) > 1:
        torch.set_num_threads(int(number))  # the library itself was loaded with one thread


def _wind_up() -> None:
    shut_down_threads: Callable[[], None] = threading._shutdown  # type: ignore[attr-defined]  # noqa: SLF001
    shut_down_threads()
    atexit._run_exitfuncs()  # noqa: SLF001


def _guarded(call: Callable[[], None]) -> int:
    # The outermost frame of the process: whatever is raised must become an exit code, for nothing else would report it.
    try:
        call()
        return 0
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return (leave.code or 0) & 0xFF
        print(leave.code, file=sys.stderr)
        return 1
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        _write_error_file(error)
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _write_error_file(error: BaseException) -> None:
    # In the form of torch elastic, so that its tools read it.
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    stack = "".join(traceback.format_exception(error))
    extra = {"py_callstack": stack, "timestamp": str(int(time.time()))}
    message = {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}
    try:
        Path(path).write_text(json.dumps({"message": message}))
    except OSError as problem:
        print(f"cannot write {path}: {problem}", file=sys.stderr)
