"""Nodes and what a slice takes of them, as the planner sees them."""

from lepton.scheduler.v1 import node_pb2, resources_pb2
from services.scheduler.snapshot import Demand, Device, Effect, Node, Taint


def demand_of(resources: resources_pb2.Resources) -> Demand:
    """What a slice takes."""
    return Demand(
        cpu_milli=resources.cpu_milli,
        memory_bytes=resources.memory_bytes,
        storage_bytes=resources.storage_bytes,
        device_milli=resources.device_milli,
        device_models=frozenset(resources.device_models),
        network_mbps=resources.network_mbps,
    )


def node_of(node: node_pb2.Node) -> Node:
    """A node as the planner sees it."""
    return Node(
        name=node.name,
        pool=node.name.rpartition("/nodes/")[0],
        session=node.session_id,
        cpu_milli=node.capacity.cpu_milli,
        memory_bytes=node.capacity.memory_bytes,
        storage_bytes=node.capacity.storage_bytes,
        devices=tuple(Device(index=each.index, model=each.model) for each in node.devices),
        is_schedulable=node.state == node_pb2.Node.READY,
        network_mbps=node.capacity.network_mbps,
        labels=dict(node.labels),
        taints=tuple(
            Taint(key=each.key, value=each.value, effect=Effect(each.effect or Effect.NO_SCHEDULE))
            for each in node.taints
        ),
    )
