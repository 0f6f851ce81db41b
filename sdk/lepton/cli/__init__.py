"""The command line `lepton`: a thin layer over AsyncClient; nothing is loaded that the command given does not need."""

import sys


def main() -> None:
    """Run the command line, and exit as lepton.cli.exits says."""
    try:
        from lepton.cli.root import run  # typer takes a tenth of a second: a Ctrl-C meanwhile ends quietly too

        run()
    except KeyboardInterrupt:
        sys.exit(130)
