"""What the agent is told to run: one order per slice, and the gang that one generation's slices on this node form."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lepton.internal.v1 import node_session_pb2
from lepton.names import WorkloadName, check_id
from lepton.scheduler.v1 import program_pb2

_UID: Final = "[A-Za-z0-9][A-Za-z0-9-]{0,63}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceKey:
    """One slice of one placement; a later generation's slice is another one."""

    workload_uid: str
    generation: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gang:
    """The slices of one generation, seen from this node."""

    workload: str
    workload_uid: str
    generation: int
    size: int
    devices: Mapping[int, tuple[int, ...]]  # of the slices on this node, by index in order
    group_rank: int  # of this node
    group_count: int
    hosts_store: bool
    owner: str
    trace_context: str
    # Known once slice 0's node has said where it is.
    store: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def local(self) -> tuple[int, ...]:
        """The indices of the slices on this node, in order."""
        return tuple(self.devices)

    @property
    def run_id(self) -> str:
        """Unique for this placement, for all time."""
        return f"{self.workload_uid}.{self.generation}"

    def learn_store(self, endpoint: str) -> None:
        """Tell the ranks that wait for it where the store answers."""
        if not self.store.done():
            self.store.set_result(endpoint)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceOrder:
    """One slice to run."""

    key: SliceKey
    group: str
    node: str
    devices: tuple[int, ...]
    program: program_pb2.Program
    gang: Gang

    def continues(self, other: "SliceOrder") -> bool:
        """Whether a process that runs for the other, older order does what this one asks for: it is kept then.

        Never a rank of a gang: its generation is the name of its rendezvous.
        """
        return (
            self.key.workload_uid == other.key.workload_uid
            and self.key.index == other.key.index
            and self.key.generation > other.key.generation
            and (self.group, self.devices) == (other.group, other.devices)
            and not (self.program.HasField("torch") and self.gang.size > 1)
            and self.program.SerializeToString(deterministic=True)
            == other.program.SerializeToString(deterministic=True)
        )

    @property
    def local_rank(self) -> int:
        """Its number among the slices of this node."""
        return self.gang.local.index(self.key.index)

    @property
    def project(self) -> str:
        """The id of the project it runs for."""
        return WorkloadName.parse(self.gang.workload, "workload").project

    @property
    def folder(self) -> str:
        """The name of its work directory: unique, and free of anything a caller chose."""
        return f"{self.gang.run_id}.{self.key.index}"

    @property
    def short(self) -> str:
        """The same in few characters: for paths that sockets lie in, which may have 107."""
        return hashlib.sha256(self.folder.encode()).hexdigest()[:12]


def read_orders(start: node_session_pb2.StartSlices, node: str) -> tuple[SliceOrder, ...]:
    """The orders that a message holds; InvalidArgument when it names no workload."""
    WorkloadName.parse(start.workload, "workload")
    check_id(start.workload_uid, "workload_uid", _UID)  # it names directories
    nodes = list(start.gang_nodes) or [node]
    gang = Gang(
        workload=start.workload,
        workload_uid=start.workload_uid,
        generation=start.generation,
        size=start.gang_size,
        devices={piece.index: tuple(piece.devices) for piece in sorted(start.slices, key=lambda piece: piece.index)},
        group_rank=nodes.index(node) if node in nodes else 0,
        group_count=len(nodes),
        hosts_store=start.hosts_store,
        owner=start.owner,
        trace_context=start.trace_context,
    )
    if start.store_endpoint:
        gang.learn_store(start.store_endpoint)
    return tuple(
        SliceOrder(
            key=SliceKey(workload_uid=start.workload_uid, generation=start.generation, index=piece.index),
            group=piece.group,
            node=node,
            devices=tuple(piece.devices),
            program=start.programs[piece.group],
            gang=gang,
        )
        for piece in start.slices
    )
