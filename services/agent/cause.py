"""Why a rank ended badly: the class of the failure and what to do about it, judged from what it left behind; pure."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chassis.failures import ADVICE, FailureClass

NEAR: Final = 0.9  # of its memory: a rank that was killed with so much in use was killed for it
_SHELL_SIGNAL: Final = 128  # a shell gives this plus the signal's number as the exit code of what it ran
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is known of a rank's memory when it has ended."""

    peak_bytes: int = 0  # the most that was resident; 0 = not known
    limit_bytes: int = 0  # its cgroup's, else the machine's; 0 = not known
    oom_kills: int = 0  # by the kernel in its cgroup, else on the machine, while it ran


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A rank that made no step for too long."""

    seconds: float
    step: int  # its last
    where: str  # its process is or does this
    waited: bool = False  # in a collective, for other ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a rank that ended badly left behind."""

    exit_code: int  # minus the signal's number when a signal ended it
    own_words: str = ""  # of its error file: the type and message of the exception that ended it
    tail: Sequence[str] = ()  # its last lines of output, the newest last
    memory: Memory = field(default_factory=Memory)
    stall: Stall | None = None  # the agent killed it for this
    batch_size: int = 0  # samples of a step, all ranks together; 0 = not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """The verdict."""

    failure_class: FailureClass
    message: str
    advice: str
    suspects: tuple[int, ...] = ()  # ranks that it names as those at fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Words that tell a class."""

    pattern: re.Pattern[str]
    failure_class: FailureClass
    advice: str = ""  # empty = that of the class


def _rule(pattern: str, failure_class: FailureClass, advice: str = "") -> Rule:
    return Rule(pattern=re.compile(pattern), failure_class=failure_class, advice=advice)


RULES: Final[Sequence[Rule]] = (
    _rule(
        r"CUDA out of memory|HIP out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation"
        r"|CUBLAS_STATUS_ALLOC_FAILED|\bOutOfMemoryError\b",
        FailureClass.OOM_DEVICE,
    ),
    _rule(
        r"insufficient shared memory|out of shared memory|</torch_\w+>.*(?:No space left|Cannot allocate)"
        r"|DataLoader worker .* killed by signal: Bus error",
        FailureClass.OOM_HOST,
        "the shared memory of the machine is full: use fewer DataLoader workers, or give the machine a larger /dev/shm",
    ),
    _rule(
        r"\bMemoryError\b|Cannot allocate memory|DefaultCPUAllocator: (?:can't|not enough)|std::bad_alloc"
        r"|DataLoader worker .* killed by signal: Killed",
        FailureClass.OOM_HOST,
    ),
    _rule(
        r"No space left on device|\[Errno 28\]|\bENOSPC\b|Disk quota exceeded|\[Errno 122\]|Read-only file system"
        r"|Input/output error|\[Errno 5\]|\bCHECKPOINT_NOT_(?:WRITTEN|STORED)\b",
        FailureClass.STORAGE,
    ),
    _rule(
        r"\bPREFLIGHT_FAILED\b|\bGANG_INCOMPLETE\b|failed to pass monitoredBarrier",
        FailureClass.COMM_TIMEOUT,
        "the ranks did not all meet before the first step: look at the nodes of those that are named and at the network"
        " between them; they are left out while the job fits elsewhere",
    ),
    _rule(
        r"Connection closed by peer|gloo.*(?:Connection reset|Broken pipe|[Tt]imed out|[Tt]imeout|onnection refused)"
        r"|Timed out waiting \d+ ?ms for (?:recv|send)|Application timeout caused pair closure"
        r"|Watchdog caught collective|collective operation timeout|\bNCCL error\b|ncclRemoteError|ncclSystemError"
        r"|\bDist(?:Backend|Network|Store)Error\b|\bwait timeout after \d+ ?ms\b|\bSocket Timeout\b",
        FailureClass.COMM_TIMEOUT,
    ),
    _rule(
        r"\bDATASET_\w+|\bARTIFACT_(?:NOT_FOUND|CORRUPT|INCOMPLETE)\b|\bDIGEST_MISMATCH\b|\bSafetensorError\b"
        r"|\bUnidentifiedImageError\b|\bBadZipFile\b",
        FailureClass.DATA,
    ),
    _rule(
        r"\bFileNotFoundError\b|\bIsADirectoryError\b|\bNotADirectoryError\b",
        FailureClass.DATA,
        "a file is not where the program looks for it: check the path, and that the file is in the dataset or bundle",
    ),
)
"""What the words of a failing rank mean; the first that fits counts."""

_KILLED: Final = _rule(
    "",
    FailureClass.USER_ERROR,
    "something outside Lepton killed it: an operator, or a supervisor of the node (see its log); while restarts "
    "are left it goes on from its newest checkpoint",
)

_SUSPECTS: Final = (
    re.compile(r"[Rr]anks? ([\d, ]+?) failed to pass monitoredBarrier"),
    re.compile(r"(?:PREFLIGHT_FAILED|GANG_INCOMPLETE).*?ranks? ([\d, ]+)"),
)
_CAPACITY: Final = re.compile(r"[Tt]ried to allocate ([\d.]+ [KMG]iB).*?total capacity of ([\d.]+ [KMG]iB)")


def judge(evidence: Evidence) -> Cause:
    """The class of a failure: what the agent itself did or saw, then what the rank said, then how it ended."""
    number = _signal_of(evidence.exit_code)
    how = f"killed by {signal.Signals(number).name}" if number else f"exit code {evidence.exit_code}"
    if (stall := evidence.stall) is not None:
        words = f"it made no step for {stall.seconds:.0f} s after step {stall.step}: {stall.where}"
        return _cause(FailureClass.HANG, words, evidence)
    if number == signal.SIGKILL:  # of which it could say nothing
        if _ran_out(evidence.memory):
            return _cause(FailureClass.OOM_HOST, f"it ran out of memory ({how})", evidence)
        said = last_words(evidence.tail)  # perhaps what the agent itself wrote there before it killed it
        rule = _match(said)
        if rule is None or rule.failure_class is not FailureClass.OOM_HOST:
            return _cause(FailureClass.USER_ERROR, how, evidence, _KILLED)
        return _cause(FailureClass.OOM_HOST, f"{said} ({how})", evidence, rule)
    said, rule = _spoken(evidence)
    if rule is not None:
        return _cause(rule.failure_class, f"{said} ({how})", evidence, rule, suspects=_suspects(said))
    return _cause(FailureClass.USER_ERROR, f"{said} ({how})" if said else how, evidence)


def last_words(tail: Sequence[str]) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(tail) if line.strip()), "")[:1000]


def _spoken(evidence: Evidence) -> tuple[str, Rule | None]:
    """What the rank said of its end, and what that means. Its exception goes before whatever else it printed."""
    if evidence.own_words:
        return evidence.own_words, _match(evidence.own_words)
    for line in reversed(evidence.tail):
        rule = _match(line)
        if rule is not None:
            return line.strip()[:1000], rule
    return last_words(evidence.tail), None


def _match(text: str) -> Rule | None:
    return next((rule for rule in RULES if rule.pattern.search(text)), None)


def _suspects(said: str) -> tuple[int, ...]:
    for pattern in _SUSPECTS:
        found = pattern.search(said)
        if found is not None:
            return tuple(int(number) for number in re.findall(r"\d+", found[1]))
    return ()


def _signal_of(exit_code: int) -> int:
    """The signal that ended it, also behind a shell; 0 = none."""
    number = -exit_code if exit_code < 0 else exit_code - _SHELL_SIGNAL
    return number if number in set(signal.Signals) and (exit_code < 0 or number == signal.SIGKILL) else 0


def _ran_out(memory: Memory) -> bool:
    is_near = bool(memory.limit_bytes) and memory.peak_bytes >= NEAR * memory.limit_bytes
    return memory.oom_kills > 0 or is_near


def _cause(
    failure_class: FailureClass,
    message: str,
    evidence: Evidence,
    rule: Rule | None = None,
    *,
    suspects: tuple[int, ...] = (),
) -> Cause:
    advice = (rule.advice if rule is not None else "") or ADVICE[failure_class]
    if evidence.batch_size > 1:
        halved = f"halve --batch-size ({evidence.batch_size} -> {evidence.batch_size // 2})"
        advice = advice.replace("halve --batch-size", halved)
    if failure_class is FailureClass.OOM_HOST and evidence.memory.peak_bytes:
        advice = f"{advice}; {_peak(evidence.memory)}"
    if failure_class is FailureClass.OOM_DEVICE and (found := _CAPACITY.search(message)):
        advice = f"{advice}; it tried to allocate {found[1]} more on a device of {found[2]}"
    return Cause(failure_class=failure_class, message=message, advice=advice, suspects=suspects)


def _peak(memory: Memory) -> str:
    of = f" of {memory.limit_bytes / _GIB:.2f} GiB" if memory.limit_bytes else ""
    return f"the rank peaked at {memory.peak_bytes / _GIB:.2f} GiB{of}"
