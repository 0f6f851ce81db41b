"""Starts the launcher's process: `python -m services.agent.launcher --fd N --parent PID`; only the agent does this."""

import argparse
import os
import signal
import socket
import time

from services.agent.launcher.death import die_with


def main() -> None:
    """Warms up, says so, and serves until the agent is gone."""
    parser = argparse.ArgumentParser(prog="services.agent.launcher", description="Fork server for an agent's ranks.")
    parser.add_argument("--fd", type=int, required=True, help="the inherited control socket")
    parser.add_argument("--parent", type=int, required=True, help="the agent's process id")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which ends its ranks in order
    began = time.monotonic()

    from services.agent.launcher import protocol  # after die_with: a launcher without an agent must not even warm up
    from services.agent.launcher.server import Server
    from services.agent.launcher.warm import warm_up

    control = socket.socket(fileno=arguments.fd)
    control.setblocking(True)
    control.set_inheritable(False)
    warm_up()
    protocol.send(control, {"ready": os.getpid(), "seconds": time.monotonic() - began})
    Server(control).run()


if __name__ == "__main__":
    main()
