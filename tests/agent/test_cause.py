"""What the agent makes of what a rank left behind: every class has its case and its advice."""

import signal

import pytest

from chassis.failures import ADVICE, FailureClass
from lepton.errors import Unavailable
from services.agent.cause import RULES, Evidence, Memory, Stall, judge

GIB = 1 << 30
GLOO = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:40213"
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
NCCL = "[rank0]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=ALLREDUCE)"
SHM = "RuntimeError: unable to write to file </torch_11_22>: No space left on device (28)"


def said(words: str) -> Evidence:
    return Evidence(exit_code=1, own_words=words)


CASES = [
    (
        said("ValueError: the data is wrong"),
        FailureClass.USER_ERROR,
        "the data is wrong (exit code 1)",
        "lepton jobs logs",
    ),
    (Evidence(exit_code=2), FailureClass.USER_ERROR, "exit code 2", "lepton jobs logs"),
    (Evidence(exit_code=-9), FailureClass.USER_ERROR, "killed by SIGKILL", ""),
    (Evidence(exit_code=-11), FailureClass.USER_ERROR, "killed by SIGSEGV", ""),
    (said(CUDA), FailureClass.OOM_DEVICE, "out of memory", "2.00 GiB more on a device of 79.11 GiB"),
    (said("MemoryError: "), FailureClass.OOM_HOST, "MemoryError", "halve --batch-size"),
    (
        said("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory"),
        FailureClass.OOM_HOST,
        "",
        "halve",
    ),
    (said(SHM), FailureClass.OOM_HOST, "", "/dev/shm"),
    (
        Evidence(exit_code=-9, memory=Memory(peak_bytes=7 * GIB, limit_bytes=8 * GIB, oom_kills=1), batch_size=64),
        FailureClass.OOM_HOST,
        "it ran out of memory (killed by SIGKILL)",
        "halve --batch-size (64 -> 32) or double gradient_accumulation_steps, or ask for more memory per worker; "
        "the rank peaked at 7.00 GiB of 8.00 GiB",
    ),
    (
        Evidence(exit_code=-9, memory=Memory(peak_bytes=15 * GIB, limit_bytes=16 * GIB)),
        FailureClass.OOM_HOST,
        "",
        "peaked",
    ),
    (Evidence(exit_code=137, memory=Memory(oom_kills=1)), FailureClass.OOM_HOST, "killed by SIGKILL", "halve"),
    (Evidence(exit_code=-9, memory=Memory(peak_bytes=GIB, limit_bytes=16 * GIB)), FailureClass.USER_ERROR, "", ""),
    (
        Evidence(exit_code=-9, tail=["MemoryError: Cannot allocate beyond 1 GiB"]),
        FailureClass.OOM_HOST,
        "beyond",
        "halve",
    ),
    (Evidence(exit_code=-9, tail=["FileNotFoundError: long ago", "step 7"]), FailureClass.USER_ERROR, "", ""),
    (said(GLOO), FailureClass.COMM_TIMEOUT, "Connection closed by peer", "network"),
    (Evidence(exit_code=-6, tail=[NCCL, "terminate called"]), FailureClass.COMM_TIMEOUT, "Watchdog", "network"),
    (
        said("RuntimeError: [Rank 0]: Ranks 1, 3 failed to pass monitoredBarrier in 2000 ms"),
        FailureClass.COMM_TIMEOUT,
        "",
        "",
    ),
    (
        said("ConnectionResetError: [Errno 104] Connection reset by peer"),
        FailureClass.USER_ERROR,
        "",
        "",
    ),  # its own HTTP
    (said("FileNotFoundError: [Errno 2] No such file: 'a.png'"), FailureClass.DATA, "a.png", "check the path"),
    (said("lepton.errors.InvalidArgument: DATASET_INVALID: images have no labels"), FailureClass.DATA, "", "dataset"),
    (said("OSError: [Errno 28] No space left on device"), FailureClass.STORAGE, "", "free space"),
    (said("OSError: [Errno 122] Disk quota exceeded: 'x'"), FailureClass.STORAGE, "", "free space"),
    (
        Evidence(exit_code=-9, stall=Stall(seconds=312.4, step=17, where="it stands in train.py", waited=False)),
        FailureClass.HANG,
        "it made no step for 312 s after step 17: it stands in train.py",
        "hang_timeout",
    ),
]


@pytest.mark.parametrize(("evidence", "expected", "message", "advice"), CASES)
def test_a_failure_has_a_class_and_advice(
    evidence: Evidence, expected: FailureClass, message: str, advice: str
) -> None:
    cause = judge(evidence)
    assert cause.failure_class is expected
    assert message in cause.message
    assert advice in cause.advice
    assert "{" not in cause.advice


def test_every_class_has_advice_and_every_class_that_an_agent_tells_a_case() -> None:
    assert set(ADVICE) == set(FailureClass)
    assert all(ADVICE.values())
    told_by_others = {FailureClass.NODE_LOST, FailureClass.PREEMPTED, FailureClass.CANCELLED}
    assert {expected for _, expected, _, _ in CASES} == set(FailureClass) - told_by_others


def test_every_rule_is_needed_by_a_case() -> None:
    texts = [" ".join((each.own_words, *each.tail)) for each, *_ in CASES] + ["PREFLIGHT_FAILED: ranks 2"]
    for rule in RULES:
        assert any(rule.pattern.search(text) for text in texts), rule.pattern.pattern


def test_an_exception_goes_before_whatever_else_was_printed() -> None:
    evidence = Evidence(exit_code=1, own_words="ValueError: no", tail=["gloo: Connection closed by peer"])
    assert judge(evidence).failure_class is FailureClass.USER_ERROR


def test_without_an_exception_the_last_line_that_means_something_counts() -> None:
    evidence = Evidence(exit_code=1, tail=["FileNotFoundError: x", CUDA, "bye"])
    assert judge(evidence).failure_class is FailureClass.OOM_DEVICE


def test_those_who_did_not_come_are_named() -> None:
    barrier = "RuntimeError: [Rank 0]: Ranks 1, 3 failed to pass monitoredBarrier in 2000 ms"
    assert judge(said(barrier)).suspects == (1, 3)
    told = Unavailable("PREFLIGHT_FAILED", ranks="2, 5", seconds="10", problem="the collective did not finish")
    assert judge(said(f"Unavailable: {told}")).suspects == (2, 5)
    told = Unavailable("GANG_INCOMPLETE", ranks="1", seconds="60")
    assert judge(said(f"Unavailable: {told}")).suspects == (1,)
    assert judge(said(GLOO)).suspects == ()


def test_a_signal_is_told_by_its_name_also_behind_a_shell() -> None:
    assert judge(Evidence(exit_code=-signal.SIGTERM)).message == "killed by SIGTERM"
    assert judge(Evidence(exit_code=128 + signal.SIGKILL)).message == "killed by SIGKILL"
    assert judge(Evidence(exit_code=130)).message == "exit code 130"
