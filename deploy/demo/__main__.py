"""Runs the main job: `python -m deploy.demo [--data digits|FILE|DIR]`; writes `demo.json` into the state directory."""

import argparse
import asyncio
import json
import sys

from tritonclient.utils import InferenceServerException

from deploy.demo.show import Show
from deploy.demo.story import DemoFailed, tell
from deploy.local import control
from deploy.local.home import Home
from lepton import tracing
from lepton.errors import LeptonError
from lepton.profile import Profile


def main() -> int:
    """Starts a stack unless one is up, tells the story, and leaves the stack running; a failure leaves nothing."""
    arguments = _parser().parse_args()
    home, show = Home.from_environment(), Show()
    hold: control.Hold | None = None
    try:
        with show.step("stack", "start the one-machine stack"):
            hold = control.start(home, lambda component: show.note(f"starting {component}"))
            if hold is None:
                show.note(f"the stack in {home.root} is up already")
        profile = Profile.load(home.profile_file)
        with tracing.tracing("lepton-cli", otlp_endpoint=profile.otlp, otlp_certificate=profile.trust_bundle):
            report = asyncio.run(tell(profile, home, arguments.data, show))
    except KeyboardInterrupt:
        _end(home, hold, "interrupted")
        return 130
    except (DemoFailed, LeptonError, InferenceServerException, control.StackError, TimeoutError) as error:
        print(f"\nerror: {error}\nlogs are in {home.root / 'logs'}", file=sys.stderr)
        _end(home, hold, "the demo failed")
        return 1
    file = home.root / "demo.json"
    file.write_text(json.dumps({**report, "seconds": show.seconds}, indent=1) + "\n")
    print(f"\nwritten to {file}; the stack stays up: `lepton status`, `lepton down`")
    if hold is not None:
        hold.release()
    return 0


def _end(home: Home, hold: control.Hold | None, why: str) -> None:
    """Takes down the stack if this run started it."""
    if hold is not None:
        print(f"{why}: ending the stack", file=sys.stderr)
        control.stop(home)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description="Lepton's main job, end to end.")
    parser.add_argument(
        "--data",
        default="digits",
        help="what to train on: `digits` (scikit-learn's), an .npz file, or an IDX images file (labels beside it)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
