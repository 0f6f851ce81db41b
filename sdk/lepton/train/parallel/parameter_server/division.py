"""Which server has which weights; pure."""

from collections.abc import Mapping


def divide(sizes: Mapping[str, int], servers: int) -> list[list[str]]:
    """The names of each server: the largest first, each to the server that has the least; the same on every rank."""
    names: list[list[str]] = [[] for _ in range(servers)]
    load = [0] * servers
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        lightest = min(range(servers), key=lambda server: (load[server], server))
        names[lightest].append(name)
        load[lightest] += size
    return names
