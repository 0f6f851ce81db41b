"""What is held of a fleet, reckoned from the nodes and the slices alone: nothing of the planner's is used."""

from collections.abc import Iterable, Mapping

from services.scheduler.planner.ask import Ask, Spot
from services.scheduler.snapshot import Demand, Effect, Node

RESOURCES = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")


class Ledger:
    """Every slice that is held; complains about what no node could carry."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes
        self.devices = {(name, each.index): 0 for name, node in nodes.items() for each in node.devices}
        self.amounts = {(name, resource): 0 for name in nodes for resource in RESOURCES}

    def copy(self) -> "Ledger":
        """The same, to be changed apart."""
        other = Ledger(self.nodes)
        other.devices, other.amounts = dict(self.devices), dict(self.amounts)
        return other

    def hold(self, node: str, demand: Demand, devices: Iterable[int], sign: int = 1) -> None:
        """Hold (sign -1: give back) one slice."""
        each = min(demand.device_milli, 1000)
        for index in devices:
            self.devices[node, index] += sign * each
            assert 0 <= self.devices[node, index] <= 1000, f"device {index} of {node} is over-allocated"
        for resource in RESOURCES:
            self.amounts[node, resource] += sign * getattr(demand, resource)
            assert 0 <= self.amounts[node, resource] <= getattr(self.nodes[node], resource), f"{resource} of {node}"

    def check_and_hold(self, ask: Ask, spots: Iterable[Spot]) -> None:
        """The spots are what was asked for, and legal; they are held from now on."""
        spots = list(spots)
        demands = {want.group.name: want.group.demand for want in ask.wants}
        for want in ask.wants:
            number = sum(spot.group == want.group.name for spot in spots)
            assert want.least <= number <= want.most, f"{number} of {want}"
        for spot in spots:
            node, demand = self.nodes[spot.node], demands[spot.group]
            assert may_use(ask, node)
            is_share = 0 < demand.device_milli < 1000
            assert len(set(spot.devices)) == len(spot.devices) == (1 if is_share else demand.device_milli // 1000)
            models = {each.index: each.model for each in node.devices}
            assert not demand.device_models or all(models[at] in demand.device_models for at in spot.devices)
            self.hold(spot.node, demand, spot.devices)

    def count(self, name: str, demand: Demand) -> int:
        """How many slices of a demand one node would still carry, found one by one."""
        free = [
            1000 - self.devices[name, each.index]
            for each in self.nodes[name].devices
            if not demand.device_models or each.model in demand.device_models
        ]
        left = {each: getattr(self.nodes[name], each) - self.amounts[name, each] for each in RESOURCES}
        number = 0
        while number < 100 and all(left[each] >= getattr(demand, each) for each in RESOURCES):
            if 0 < demand.device_milli < 1000:
                at = next((at for at, level in enumerate(free) if level >= demand.device_milli), None)
                if at is None:
                    break
                free[at] -= demand.device_milli
            else:
                whole = [at for at, level in enumerate(free) if level == 1000][: demand.device_milli // 1000]
                if len(whole) < demand.device_milli // 1000:
                    break
                for at in whole:
                    free[at] = 0
            left = {each: left[each] - getattr(demand, each) for each in RESOURCES}
            number += 1
        return number

    def fits(self, ask: Ask) -> int:
        """How many slices of the first group the nodes that may be used would carry in all."""
        demand = ask.wants[0].group.demand
        return sum(self.count(name, demand) for name, node in self.nodes.items() if may_use(ask, node))

    def fits_within(self, ask: Ask, level: str) -> int:
        """The same within the best one domain."""
        demand, rooms = ask.wants[0].group.demand, {"": 0}
        for name, node in self.nodes.items():
            domain = name if level == "host" else node.labels.get(level, "")
            if domain and may_use(ask, node):
                rooms[domain] = rooms.get(domain, 0) + self.count(name, demand)
        return max(rooms.values())


def may_use(ask: Ask, node: Node) -> bool:
    """Whether a node may be used at all."""
    if node.pool != ask.pool or not node.is_schedulable:
        return False
    if any(node.labels.get(key) != value for key, value in ask.selector):
        return False
    for taint in node.taints:
        is_tolerated = any(each.key in ("", taint.key) and each.value in ("", taint.value) for each in ask.tolerations)
        if taint.effect is not Effect.PREFER_NO_SCHEDULE and not is_tolerated:
            return False
    return True
