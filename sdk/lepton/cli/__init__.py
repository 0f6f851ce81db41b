"""The command line `lepton`: a thin layer over AsyncClient; nothing is loaded that the command given does not need."""

import os
import sys


def main() -> None:
    """Run the command line, and exit as lepton.cli.exits says."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC's own log lines say nothing to a user
    try:
        from lepton.cli.root import run  # typer takes a tenth of a second: a Ctrl-C meanwhile ends quietly too

        run()
    except KeyboardInterrupt:
        sys.exit(130)
