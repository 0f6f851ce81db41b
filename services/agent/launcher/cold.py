"""Runs a rank's program in an interpreter of its own: for programs whose packages are not those of the launcher.

Started by the warden as `python -P -c "from services.agent.launcher.cold import main; main()" ENTRY ARGUMENT...`, with
the contract's environment and the report socket as file 3. It ends as a forked rank does: same exit codes, same files.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from services.agent.launcher.child import run_to_the_end
from services.agent.launcher.heap import keep_what_is_freed
from services.agent.launcher.program import run_program

_CODE: Final = "from services.agent.launcher.cold import main; main()"


def command(python: Path, entry: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command that runs a program (see RankLaunch.entry) with an interpreter."""
    return (str(python), "-P", "-c", _CODE, entry, *argv)


def main() -> None:
    """Runs the program that the arguments name."""
    entry, *argv = sys.argv[1:]
    keep_what_is_freed(os.environ)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with contextlib.suppress(ImportError):
        import torch.distributed  # noqa: F401  # program.py must find it to keep its process groups
    run_to_the_end(lambda: run_program(entry, argv))
