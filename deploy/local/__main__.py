"""The one-machine stack from the shell: `python -m deploy.local up|down|status|run`."""

import argparse
import asyncio
import os
import sys

from deploy.local import control
from deploy.local.home import Home
from deploy.local.stack import plan
from deploy.local.supervisor import Supervisor, supervise


def main() -> int:
    """Reads the command line and does what it says; the exit code is 0 when it was done."""
    arguments = _parser().parse_args()
    home = Home.from_environment()
    if arguments.verb == "run":
        home.create()
        supervisor = Supervisor(plan(home), home.stack_file)
        return 0 if asyncio.run(supervise(supervisor, arguments.hold)) else 1
    try:
        verbs = {"up": _up, "down": _down, "status": _status}
        return verbs[arguments.verb](home)
    except control.StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _up(home: Home) -> int:
    hold = control.start(home, lambda component: print(f"  starting {component}", flush=True))
    if hold is None:
        print(f"the stack in {home.root} is up already")
        return 0
    hold.release()
    print(f"the stack is up; its state is in {home.root}, its profile in {home.profile_file}")
    print(f"sign in with: lepton login --user admin --password-file {os.path.relpath(home.admin_password)}")
    return 0


def _down(home: Home) -> int:
    print("the stack is down" if control.stop(home) else "no stack is running")
    return 0


def _status(home: Home) -> int:
    said = control.state(home)
    if said is None:
        print("no stack is running: start one with `lepton up`")
        return 1
    print(f"{said['phase']}  (supervisor {said['pid']}, state in {home.root})")
    for name, one in said["components"].items():
        print(f"  {name:<12} pid {one['pid']:<8} restarts {one['restarts']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="A whole Lepton on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("up", help="start the stack and wait until it is ready")
    verbs.add_parser("down", help="end the stack and every process of it")
    verbs.add_parser("status", help="show the stack's processes")
    run = verbs.add_parser("run", help="run the stack in the foreground")
    run.add_argument("--hold", type=int, help="a pipe's read end: the stack ends when the other end closes")
    return parser


sys.exit(main())
