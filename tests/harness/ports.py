"""Ports of the loopback interface that nobody listens on."""

from contextlib import ExitStack

from deploy.local.ports import listen_anywhere


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as held:
        listeners = [held.enter_context(listen_anywhere()) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]
