"""A rank that joins its gang in one of several bad ways, and prints the error. Arguments: the way, and a folder.

`check`: all is well. `stall`: rank 1 joins and takes no part in the check. `alone`: the others never come.
"""

import sys
import time
from datetime import timedelta
from pathlib import Path

from lepton import train
from lepton.errors import LeptonError
from lepton.train import gang as gangs


def main() -> None:
    way, folder = sys.argv[1], Path(sys.argv[2])
    gang = train.session().gang
    if way == "alone":
        gangs._JOIN_TIMEOUT = timedelta(seconds=0.5)  # type: ignore[misc]
    try:
        gang.join()
        if way == "stall" and gang.rank == 1:
            while not (folder / "go").exists():
                time.sleep(0.005)
        elif way == "stall":
            gang.check(timeout_s=0.5)
        print("well", flush=True)
    except LeptonError as error:
        print(f"{type(error).__name__} {error.reason} {error.metadata.get('ranks')}", flush=True)
    finally:
        (folder / "go").touch()


if __name__ == "__main__":
    main()
