"""What each class of failure may cost, as it is written on a command line: `oom-device=0`."""

from collections.abc import Iterable
from typing import Final

import typer

from lepton.trainer.v1.job_pb2 import FailurePolicy, JobError

_OPTION: Final = "--restarts"
_CLASSES: Final = {name.lower().replace("_", "-"): kind for name, kind in JobError.Class.items() if kind}


def restart_rules(texts: Iterable[str]) -> list[FailurePolicy.Rule]:
    """The rules that the texts say; BadParameter when one makes no sense."""
    found: dict[JobError.Class.ValueType, FailurePolicy.Rule] = {}
    for text in texts:
        name, _, number = text.partition("=")
        kind = _CLASSES.get(name.strip().lower().replace("_", "-"))
        if kind is None:
            raise typer.BadParameter(f"{name!r} is no class: give one of {', '.join(_CLASSES)}", param_hint=_OPTION)
        if kind in found:
            raise typer.BadParameter(f"{name} is given twice", param_hint=_OPTION)
        if not number.strip().isdecimal() or int(number) > 1000:
            raise typer.BadParameter(f"{text!r}: write CLASS=NUMBER, up to 1000", param_hint=_OPTION)
        found[kind] = FailurePolicy.Rule(max_restarts=int(number))
        setattr(found[kind], "class", kind)  # a keyword of Python
    return list(found.values())
