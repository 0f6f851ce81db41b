"""What a process of a job is held to: a user of its own, limits, a cgroup; applied by the process itself.

Two ways lead here, both before a line of the job's own code: a rank forked by the launcher calls `apply`, and a program
that is executed is started through this file: `python -I -S confinement.py CONFINEMENT COMMAND...`. It imports nothing
but the standard library, so that it starts in milliseconds (docs/decisions/0008).
"""

import contextlib
import ctypes
import json
import os
import resource
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

UMASK: Final = 0o077
_O_PATH: Final = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW  # a link may lead above what is hidden
NO_CORE: Final = 1
"""Bytes of a core file that mean none at all: with 0 the kernel still hands the core to a program (core(5))."""
_LANDLOCK: Final = (444, 445, 446)  # create_ruleset, add_rule, restrict_self: the same number on every architecture
_READ_FILE: Final = 1 << 2
_REFER: Final = 1 << 13  # to move a file to another folder: denied everywhere unless it is allowed
_ASK_VERSION: Final = 1
_OLDEST: Final = 2  # of Landlock: the one before knows no _REFER
_PATH_BENEATH: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_LIMITS: Final = {
    "core": resource.RLIMIT_CORE,
    "files": resource.RLIMIT_NOFILE,
    "file_bytes": resource.RLIMIT_FSIZE,
    "processes": resource.RLIMIT_NPROC,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What one process and all that it starts are held to."""

    uid: int | None = None  # None: the agent's own user; the group has the same number
    limits: Mapping[str, int] = field(default_factory=dict)  # by the names of _LIMITS
    cgroup: str = ""  # the folder of a cgroup; empty = none
    hidden: tuple[str, ...] = ()  # folders whose files cannot be read, where the kernel has Landlock
    shown: tuple[str, ...] = ()  # folders in these that can

    def to_json(self) -> dict[str, Any]:
        """As it travels to the launcher and to this file's `main`."""
        return asdict(self)

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> "Confinement":
        """What `to_json` made."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})


def apply(confinement: Confinement) -> None:
    """Hold this process to it, for good. OSError when the kernel refuses: then nothing may be run."""
    os.umask(UMASK)
    if confinement.cgroup:
        (Path(confinement.cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    for name, most in confinement.limits.items():
        _limit(_LIMITS[name], most)
    rules = _rules(confinement.hidden, confinement.shown) if confinement.hidden else None  # while all can be seen
    if confinement.uid is not None:
        os.setgroups([])
        os.setresgid(confinement.uid, confinement.uid, confinement.uid)
        os.setresuid(confinement.uid, confinement.uid, confinement.uid)
        _prctl(_PR_SET_DUMPABLE, 1)  # else it could not read its own /proc/self
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)  # no set-uid program gives it rights again
    if rules is not None:
        _call(_LANDLOCK[2], rules, 0)
        os.close(rules)


def command(confinement: Confinement, argv: tuple[str, ...], *, files: int = 3) -> tuple[str, ...]:
    """The command that runs another one under a confinement, with its first files and no others."""
    return (sys.executable, "-I", "-S", __file__, json.dumps({**confinement.to_json(), "files": files}), *argv)


def beside(hidden: Iterable[str], folder: str = "/") -> Iterator[str]:
    """All that there is without the hidden folders, as the fewest paths: what lies beside them and beside all above."""
    places = {os.path.realpath(each) for each in hidden}
    with os.scandir(folder) as found:
        for each in found:
            if each.path in places:
                continue
            if any(place.startswith(f"{each.path}/") for place in places):
                yield from beside(places, each.path)
            else:
                yield each.path


def conceal() -> None:
    """Keep this process's memory and environment from others of its user, root excepted; it leaves no core then."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _rules(hidden: Iterable[str], shown: Iterable[str]) -> int | None:
    """A Landlock ruleset: files are read only below what is beside the hidden folders, and below the shown ones.

    None where the kernel has no Landlock. Who is held to it cannot look into the agent's memory and environment either.
    """
    try:
        if _call(_LANDLOCK[0], None, 0, _ASK_VERSION) < _OLDEST:
            return None
        ruleset = _call(_LANDLOCK[0], ctypes.byref(ctypes.c_uint64(_READ_FILE | _REFER)), 8, 0)
    except OSError:
        return None
    allowed = {"/": _REFER, **dict.fromkeys((*beside(hidden), *map(os.path.realpath, shown)), _READ_FILE)}
    for path, rights in allowed.items():
        try:
            place = os.open(path, _O_PATH)
        except OSError:
            continue  # gone meanwhile
        rule = struct.pack("=Qi", rights, place)
        with contextlib.suppress(OSError):  # a socket or a link: nothing to read, or not this way
            _call(_LANDLOCK[1], ruleset, _PATH_BENEATH, rule, 0)
        os.close(place)
    return ruleset


def _call(number: int, *arguments: Any) -> int:
    answer = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return int(answer)


def _limit(number: int, most: int) -> None:
    _, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)  # only down, as for everybody who is not root
    resource.setrlimit(number, (most, most))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _main() -> None:
    document = json.loads(sys.argv[1])
    os.closerange(document.get("files", 3), os.sysconf("SC_OPEN_MAX"))
    apply(Confinement.of_json(document))
    try:
        os.execvpe(sys.argv[2], sys.argv[2:], os.environ)  # an argument list, never a shell
    except OSError as error:
        print(f"cannot run {sys.argv[2]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    _main()
