"""A trace as a tree of text: every span under its parent, with its service, its duration and when it began; pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_SHOWN_ALIKE: Final = 4
"""So many siblings of one service and name are shown one by one; more are drawn together."""


def render(spans: Sequence[Mapping[str, Any]]) -> str:
    """The tree, a line a span; spans whose parent is missing stand at the top. Empty without spans."""
    if not spans:
        return ""
    known = {span["span_id"] for span in spans}
    children: dict[str, list[Mapping[str, Any]]] = {}
    for span in sorted(spans, key=lambda span: (span["start_ns"], span["span_id"])):
        parent = span["parent_id"] if span["parent_id"] in known else ""
        children.setdefault(parent, []).append(span)
    origin = min(span["start_ns"] for span in spans)
    rows = _rows(children, "", "", origin)
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {times}" for label, times in rows)


def _rows(
    children: Mapping[str, Sequence[Mapping[str, Any]]], parent: str, indent: str, origin: int
) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    groups = _groups(children.get(parent, ()))
    for index, group in enumerate(groups):
        is_last = index == len(groups) - 1
        branch = "" if parent == "" and not indent else ("└─ " if is_last else "├─ ")
        below = indent + ("" if not branch else ("   " if is_last else "│  "))
        rows.append((f"{indent}{branch}{_label(group)}", _times(group, origin)))
        # Of many alike, the first stands for what lies under each.
        rows += _rows(children, group[0]["span_id"], below or " ", origin)
    return rows


def _groups(siblings: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Siblings in order; those of one service and name together when they are many."""
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for span in siblings:
        alike.setdefault((span["service"], span["name"]), []).append(span)
    groups: list[list[Mapping[str, Any]]] = []
    for group in alike.values():
        groups += [group] if len(group) > _SHOWN_ALIKE else [[span] for span in group]
    return sorted(groups, key=lambda group: group[0]["start_ns"])


def _label(group: Sequence[Mapping[str, Any]]) -> str:
    span = group[0]
    rank = span["attributes"].get("lepton.rank")
    service = span["service"] if rank is None else f"{span['service']} {rank}"
    error = " ✗" if any(each["is_error"] for each in group) else ""
    count = f" × {len(group)}" if len(group) > 1 else ""
    return f"{service}: {span['name']}{count}{error}"


def _times(group: Sequence[Mapping[str, Any]], origin: int) -> str:
    spent = sum(span["end_ns"] - span["start_ns"] for span in group) / 1e6
    return f"{spent:>10.1f} ms  at +{(group[0]['start_ns'] - origin) / 1e9:.3f} s"
