"""What the agent says about its node when a session opens."""

from collections.abc import Callable, Mapping

import lepton
from chassis.clock import Clock
from lepton.scheduler.v1 import node_pb2
from services.agent import inventory
from services.agent.config import AgentConfig
from services.agent.triton_offer import labels, offer, tools


async def describe(config: AgentConfig) -> node_pb2.Node:
    """The node as it is now."""
    declared = [inventory.Declared(model=each.model, memory_bytes=each.memory_bytes) for each in config.devices]
    return node_pb2.Node(
        name=config.name,
        address=config.address,
        capacity=inventory.capacity(
            cpu_milli=config.cpu_milli,
            memory_bytes=config.memory_bytes,
            storage_bytes=config.storage_bytes,
            network_mbps=config.network_mbps,
            storage=config.state_dir,
        ),
        devices=await inventory.devices(declared),
        labels={**inventory.machine_labels(), **_triton_labels(config), **config.labels},
        taints=[
            node_pb2.Taint(key=each.key, value=each.value, effect=node_pb2.Taint.Effect.Value(each.effect))
            for each in config.taints
        ],
        agent_version=lepton.__version__,
    )


def _triton_labels(config: AgentConfig) -> Mapping[str, str]:
    found = tools(config.triton)
    return {} if found is None else labels(offer(found))


def usage_meter(config: AgentConfig, clock: Clock) -> Callable[[], inventory.Usage]:
    """What measures use: of the machine, or of the agent's own part of it where its share of it is set."""
    if config.cpu_milli or config.memory_bytes:
        return inventory.TreeMeter(clock.monotonic)
    return inventory.UsageMeter()


def device_models(node: node_pb2.Node) -> Mapping[int, str]:
    """The models of the accelerators that are real, by index."""
    return {device.index: device.model for device in node.devices if not device.uuid.startswith(inventory.VIRTUAL)}


def device_uuids(node: node_pb2.Node) -> Mapping[int, str]:
    """The vendor's ids of the accelerators that are real, by index."""
    return {device.index: device.uuid for device in node.devices if not device.uuid.startswith(inventory.VIRTUAL)}
