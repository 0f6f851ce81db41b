"""Runs the proving process, with a deadline, and reads what it found."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lepton.errors import InvalidArgument
from lepton.models.package import Signature, Tensor

DEADLINE_S: Final = 900.0
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "TMPDIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What running a model once has shown."""

    signature: Signature
    rows: int
    is_made: bool
    """The golden requests were made of a seed, for none were given."""
    seed: int
    seconds: float
    metrics: Mapping[str, float]


def prove(spec: Mapping[str, Any], folder: Path, *, deadline_s: float = DEADLINE_S) -> Proof:
    """Runs the model of a spec in a process of its own, which writes into `folder`.

    Raises InvalidArgument: MODEL_NOT_PROVED, GOLDEN_INVALID, or whatever the process refuses the model with.
    """
    (folder / "spec.json").write_text(json.dumps(spec))
    name = Path(spec["model"]).name
    environment = {key: os.environ[key] for key in _KEPT if key in os.environ}  # no tokens, no keys of stores
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "lepton.models.importing.proving", str(folder / "spec.json")],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        _, words = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        problem = f"it was not done after {deadline_s:.0f} s"
        raise InvalidArgument("MODEL_NOT_PROVED", file=name, problem=problem) from error
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode == 0:
        return _proof(json.loads((folder / "report.json").read_bytes()))
    raise _problem(folder / "problem.json", name, process.returncode, words)


def _proof(report: Mapping[str, Any]) -> Proof:
    return Proof(
        signature=Signature(
            inputs=tuple(map(Tensor.from_json, report["inputs"])),
            outputs=tuple(map(Tensor.from_json, report["outputs"])),
        ),
        rows=report["rows"],
        is_made=report["made"],
        seed=report["seed"],
        seconds=report["seconds"],
        metrics=report["metrics"],
    )


def _problem(path: Path, name: str, code: int, words: str) -> InvalidArgument:
    try:
        found = json.loads(path.read_bytes())
        return InvalidArgument(found["reason"], fields=found["fields"] or None, **found["metadata"])
    except FileNotFoundError:
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        last = words.strip().splitlines()[-1:] or [""]
        problem = f"the process that ran it ended with {how} {last[0]}".strip()[:500]
        return InvalidArgument("MODEL_NOT_PROVED", file=name, problem=problem)
