"""What the agent says about its node when a session opens."""

from collections.abc import Mapping

import lepton
from lepton.scheduler.v1 import node_pb2
from services.agent import inventory
from services.agent.config import AgentConfig


async def describe(config: AgentConfig) -> node_pb2.Node:
    """The node as it is now."""
    declared = [inventory.Declared(model=each.model, memory_bytes=each.memory_bytes) for each in config.devices]
    return node_pb2.Node(
        name=str(config.name),
        address=config.address,
        capacity=inventory.capacity(
            cpu_milli=config.cpu_milli, memory_bytes=config.memory_bytes, storage=config.state_dir
        ),
        devices=await inventory.devices(declared),
        labels={**inventory.network_labels(), **config.labels},
        agent_version=lepton.__version__,
    )


def device_uuids(node: node_pb2.Node) -> Mapping[int, str]:
    """The vendor's ids of the accelerators that are real, by index."""
    return {device.index: device.uuid for device in node.devices if not device.uuid.startswith(inventory.VIRTUAL)}
