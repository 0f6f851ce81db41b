"""The tree in which a trace is shown."""

from typing import Any

from lepton.trace_tree import render


def span(name: str, service: str, parent: str = "", start_ms: int = 0, end_ms: int = 10, **more: Any) -> dict[str, Any]:
    spans = {"trace_id": "1" * 32, "span_id": name, "parent_id": parent, "service": service, "name": name}
    times = {"start_ns": start_ms * 1_000_000, "end_ns": end_ms * 1_000_000}
    return {**spans, **times, "kind": "server", "is_error": False, "attributes": {}, **more}


def test_a_trace_is_a_tree_with_times() -> None:
    spans = [
        span("run", "rank", "place", 40, 900, attributes={"lepton.rank": 1}),
        span("train", "lepton-cli", "", 0, 1000),
        span("place", "scheduler", "CreateJob", 30, 35),
        span("CreateJob", "trainer", "train", 10, 20),
        span("predict", "gateway", "train", 950, 990, is_error=True),
    ]
    assert render(spans).splitlines() == [
        "lepton-cli: train            1000.0 ms  at +0.000 s",
        " ├─ trainer: CreateJob         10.0 ms  at +0.010 s",
        " │  └─ scheduler: place         5.0 ms  at +0.030 s",
        " │     └─ rank 1: run         860.0 ms  at +0.040 s",
        " └─ gateway: predict ✗         40.0 ms  at +0.950 s",
    ]


def test_many_alike_are_drawn_together() -> None:
    spans = [span("train", "cli", "", 0, 100)] + [
        {**span("poll", "cli", "train", number, number + 2), "span_id": f"poll-{number}"} for number in range(6)
    ]
    assert [line.split("  ")[0] for line in render(spans).splitlines()] == ["cli: train", " └─ cli: poll × 6"]


def test_what_has_no_parent_here_stands_at_the_top() -> None:
    assert len(render([span("a", "x", "lost"), span("b", "y", "", 5)]).splitlines()) == 2
    assert render([]) == ""
