"""A trace drawn as a tree."""

from typing import Any

from lepton.trace_tree import render


def span(
    span_id: str, parent_id: str, service: str, name: str, start_ms: int, end_ms: int, **more: Any
) -> dict[str, Any]:
    found = {"span_id": span_id, "parent_id": parent_id, "service": service, "name": name, "is_error": False}
    return {**found, "start_ns": start_ms * 1_000_000, "end_ns": end_ms * 1_000_000, "attributes": {}, **more}


def test_children_stand_under_their_parent_in_order_of_time() -> None:
    spans = [
        span("c", "a", "agent", "start", 20, 30),
        span("a", "", "cli", "demo", 0, 100),
        span("b", "a", "trainer", "CreateJob", 10, 15, is_error=True),
        span("d", "c", "rank", "train", 25, 29, attributes={"lepton.rank": 3}),
    ]
    lines = [line.split("  ")[0].rstrip() for line in render(spans).splitlines()]
    assert render(spans).splitlines()[0].startswith("cli: demo")
    assert "trainer: CreateJob ✗" in render(spans).splitlines()[1]
    assert "rank 3: train" in render(spans).splitlines()[3]
    assert len(lines) == 4


def test_a_span_whose_parent_is_missing_stands_at_the_top() -> None:
    assert render([span("x", "gone", "auth", "SignIn", 0, 1)]).startswith("auth: SignIn")


def test_many_alike_are_drawn_together() -> None:
    spans = [span("a", "", "rank", "train", 0, 100)]
    spans += [span(f"e{index}", "a", "rank", "epoch", index, index + 1) for index in range(20)]
    drawn = render(spans).splitlines()
    assert len(drawn) == 2
    assert "epoch × 20" in drawn[1]
    assert "20.0 ms" in drawn[1]


def test_nothing_is_drawn_of_nothing() -> None:
    assert render([]) == ""
