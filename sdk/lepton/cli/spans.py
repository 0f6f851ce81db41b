"""Lengths of time as people write them: `90s`, `20m`, `6h`, `7d`, `2w`."""

import re
from typing import Final

import typer

_SPAN: Final = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str, option: str) -> int:
    """How many seconds that is."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{option} {text}: write a number with s, m, h, d or w")
    return int(match[1]) * _SECONDS[match[2]]
