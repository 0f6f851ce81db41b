"""The terms of `lepton plan` as people write them: `task:cores=4000,storage=2T:GENERAL`."""

import re
from pathlib import Path
from typing import Final

import typer
from google.protobuf.json_format import ParseDict, ParseError

from lepton.scheduler.v1.planning_service_pb2 import PlanAllocationRequest

DEMAND: Final = "NAME:RESOURCE=AMOUNT,..[:CLASS,..]"
SOURCE: Final = "NAME:NODES:RESOURCE=AMOUNT,..[:CLASS[:RESOURCE=PRICE,..]]"
TARGET: Final = "NAME[:WEIGHT]"
_SUFFIXES: Final = {
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
}
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)([kKMGTP]|[KMGTP]i)?", re.ASCII)


def demand(text: str) -> PlanAllocationRequest.Demand:
    """A demand."""
    name, amounts, *kinds = _parts(text, 2, 3, "--demand", DEMAND)
    return PlanAllocationRequest.Demand(
        name=name, amounts=_amounts(amounts, "--demand"), classes=kinds[0].upper().split(",") if kinds else ()
    )


def source(text: str) -> PlanAllocationRequest.Source:
    """A source."""
    name, nodes, capacity, *rest = _parts(text, 3, 5, "--source", SOURCE)
    if not nodes.isascii() or not nodes.isdigit():
        raise typer.BadParameter(f"{nodes} is no number of nodes; write --source {SOURCE}")
    made = PlanAllocationRequest.Source(name=name, nodes=int(nodes), capacity=_amounts(capacity, "--source"))
    if rest:
        setattr(made, "class", rest[0].upper())
    if len(rest) > 1:
        made.price.update(_amounts(rest[1], "--source"))
    return made


def target(text: str) -> tuple[str, float]:
    """A target and its weight."""
    name, *weight = _parts(text, 1, 2, "--target", TARGET)
    return name, number(weight[0], "--target") if weight else 1.0


def request_of(path: Path) -> PlanAllocationRequest:
    """A whole question, from a YAML or JSON file."""
    import yaml  # seldom wanted

    try:
        return ParseDict(yaml.safe_load(path.read_text()) or {}, PlanAllocationRequest())
    except (yaml.YAMLError, ParseError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is no question: {error}") from None


def number(text: str, option: str) -> float:
    """A number such as 4000, 2.5k, 2T or 512Gi."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text} in {option} is no amount; write a number such as 4000, 2.5k, 2T or 512Gi")
    return float(match[1]) * _SUFFIXES[match[2] or ""]


def figure(value: float) -> str:
    """A number as people read it."""
    for suffix in ("P", "T", "G", "M"):
        if abs(value) >= _SUFFIXES[suffix]:
            return f"{value / _SUFFIXES[suffix]:.6g}{suffix}"
    return f"{value:.9g}"


def _amounts(text: str, option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in text.split(","):
        resource, sign, value = each.partition("=")
        if not resource or not sign:
            raise typer.BadParameter(f"{each!r} in {option} must be RESOURCE=AMOUNT, for example cores=4000")
        found[resource] = number(value, option)
    return found


def _parts(text: str, least: int, most: int, option: str, form: str) -> list[str]:
    parts = text.split(":")
    if not least <= len(parts) <= most or not parts[0]:
        raise typer.BadParameter(f"{text!r} cannot be read; write {option} {form}")
    return parts
