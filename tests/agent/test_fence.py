"""The fence as a decision: when a node must stop by itself."""

import pytest

from services.agent.fence import BootClock, Fence


@pytest.mark.parametrize(("ttl_s", "due_s"), [(10.0, 108.0), (60.0, 158.0), (2.0, 101.6), (3.0, 102.4)])
def test_it_is_due_two_seconds_or_a_fifth_before_the_lease_ends(ttl_s: float, due_s: float) -> None:
    fence = Fence(ttl_s=ttl_s, sent_s=100.0)
    assert fence.due_s == pytest.approx(due_s)
    assert not fence.is_due(due_s - 0.01)
    assert fence.is_due(due_s + 0.01)


def test_an_acknowledgement_counts_from_when_the_heartbeat_was_sent_and_a_late_one_not_at_all() -> None:
    fence = Fence(ttl_s=10.0, sent_s=100.0).renewed(103.0)
    assert fence.due_s == 111.0
    assert fence.renewed(101.0) == fence


def test_its_clock_counts_the_time_asleep() -> None:
    clock = BootClock()
    assert clock.monotonic() <= clock.monotonic()
