"""The resources that are followed, and amounts of them as plain lists in one order."""

from typing import Final, TypeAlias

from services.scheduler.snapshot import Demand, Node

RESOURCES: Final = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps", "device_milli")
MEASURED: Final = 2  # so many of them, from the first on, are measured on the nodes
ZERO: Final = (0.0,) * len(RESOURCES)
_WHOLE: Final = 1000  # thousandths of a device

Amounts: TypeAlias = list[float]  # one for each resource


def of_node(node: Node) -> Amounts:
    """What a node has."""
    return [node.cpu_milli, node.memory_bytes, node.storage_bytes, node.network_mbps, _WHOLE * len(node.devices)]


def add(total: Amounts, more: Amounts) -> None:
    """Add to a total."""
    for at, amount in enumerate(more):
        total[at] += amount


def add_demand(total: Amounts, demand: Demand, count: int) -> None:
    """Add what so many slices take."""
    total[0] += demand.cpu_milli * count
    total[1] += demand.memory_bytes * count
    total[2] += demand.storage_bytes * count
    total[3] += demand.network_mbps * count
    total[4] += demand.device_milli * count
