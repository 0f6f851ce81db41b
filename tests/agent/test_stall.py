"""When a rank is taken to hang, and whether its stack says that it waits for others."""

import pytest

from services.agent.stall import FACTOR, SHORTEST_S, Progress, main_stack, waits

DUMP = """
Thread 0x00007f2d (most recent call first):
  File "/lib/threading.py", line 327 in wait
  File "/sdk/lepton/train/reporter.py", line 140 in _listen

Current thread 0x00007f31 (most recent call first):
  File "/site-packages/torch/distributed/distributed_c10d.py", line 2801 in all_reduce
  File "/app/train.py", line 12 in main
step 7
""".splitlines()


def test_nothing_is_expected_of_a_rank_before_its_first_step() -> None:
    progress = Progress(5.0)
    assert progress.stalled_s(1000.0) == 0.0
    progress.stepped(1, 1000.0)
    assert progress.stalled_s(1004.0) == 0.0
    assert progress.stalled_s(1005.0) == 5.0


def test_a_step_that_is_told_again_is_no_step() -> None:
    progress = Progress(5.0)
    progress.stepped(3, 0.0)
    progress.stepped(3, 4.0)
    assert progress.stalled_s(5.0) == 5.0
    progress.stepped(4, 5.0)
    assert (progress.step, progress.stalled_s(9.0)) == (4, 0.0)


def test_any_other_report_is_a_sign_of_life() -> None:
    progress = Progress(5.0)
    progress.said(0.0)  # it has not begun: still nothing is expected
    assert progress.stalled_s(100.0) == 0.0
    progress.stepped(1, 100.0)
    progress.said(104.0)
    assert progress.stalled_s(108.0) == 0.0


def test_a_rank_that_evaluates_may_take_its_time() -> None:
    progress = Progress(5.0)
    progress.stepped(9, 0.0)
    progress.rests()
    assert progress.stalled_s(10_000.0) == 0.0
    progress.stepped(10, 10_000.0)
    assert progress.stalled_s(10_006.0) == 6.0


def test_without_a_timeout_ten_times_the_usual_step_at_least_five_minutes() -> None:
    progress = Progress()
    progress.stepped(1, 0.0)
    assert progress.stalled_s(1e6) == 0.0, "an epoch that is told as one step may take an hour"
    progress.stepped(2, 0.5)
    assert progress.patience_s == SHORTEST_S
    for step in range(3, 30):
        progress.stepped(step, float(step), 60.0)
    assert progress.patience_s == pytest.approx(FACTOR * 60.0, rel=0.01)


def test_the_stack_that_counts_is_the_main_threads() -> None:
    frames = main_stack(DUMP)
    assert [frame.rpartition(" ")[2] for frame in frames] == ["all_reduce", "main"]
    assert main_stack(["nothing", "of the kind"]) == []


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ('File "/x/torch/distributed/distributed_c10d.py", line 1 in all_reduce', True),
        ('File "/x/torch/autograd/graph.py", line 824 in _engine_run_backward', True),
        ('File "/x/lepton/train/gang.py", line 44 in sum', True),
        ('File "/x/torch/nn/modules/linear.py", line 125 in forward', False),
        ('File "/app/train.py", line 3 in augment', False),
    ],
)
def test_only_a_collective_is_waiting(frame: str, expected: bool) -> None:
    assert waits([frame, 'File "/x/torch/distributed/run.py", line 1 in main']) is expected
    assert not waits([])
