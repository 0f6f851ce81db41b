"""The agent's settings. A minimal file:

node = "n1"                                # the node's id; its name is pools/<pool>/nodes/<node>
pool = "general"                           # without it the pools' membership rules decide
state_dir = "/var/lib/lepton/agent"        # work folders and the lock; one agent per directory
artifacts = "file:///srv/lepton/artifacts" # where ranks and replicas read and write artifacts

[peers]                                    # mesh ports
auth = "127.0.0.1:7002"
scheduler = "127.0.0.1:7202"
trainer = "127.0.0.1:7302"

[identity]                                 # as for every service; the join token is for spiffe agent/<node>
state_dir = "/var/lib/lepton/agent/identity"
trust_bundle = "/etc/lepton/ca.pem"
auth_address = "127.0.0.1:7001"
join_token_file = "/etc/lepton/n1.token"

[[devices]]                                # declared devices; without any, those that nvidia-smi finds
model = "virtual"
memory_bytes = 17179869184

[labels]                                   # rules and workloads may ask for them
"topology.lepton.dev/zone" = "eu-1a"       # where the node stands: zone, rack, nvlink
"topology.lepton.dev/rack" = "r12"

[[taints]]                                 # keeps work away that does not tolerate it
key = "lepton.dev/dedicated"
value = "research"
effect = "NO_SCHEDULE"                     # or PREFER_NO_SCHEDULE, NO_EXECUTE

[triton]                                   # without it the node refuses serving programs
server = "/opt/triton/bin/tritonserver"
backends = "/opt/triton/backends"
libs = "/opt/triton/libs"
python_path = "/opt/triton/stub/bin"       # the folder of the python3 that model stubs run in
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from chassis.config import ServiceConfig
from lepton.names import NodeName, check_id

OPEN: Final = "-"  # instead of a pool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredDevice:
    """An accelerator that only exists for the scheduler."""

    model: str
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTaint:
    """A mark that keeps work away."""

    key: str
    value: str = ""
    effect: Literal["NO_SCHEDULE", "PREFER_NO_SCHEDULE", "NO_EXECUTE"] = "NO_SCHEDULE"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonPaths:
    """Where Triton lies; all four are needed."""

    server: Path
    backends: Path
    libs: Path
    python_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig(ServiceConfig):
    """What an agent needs to know."""

    service: str = "agent"
    node: str
    state_dir: Path
    artifacts: str
    pool: str = OPEN  # "-" = the first pool whose membership rule accepts the node
    address: str = "127.0.0.1"  # where other nodes reach this one; gang stores listen on it
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[DeclaredTaint, ...] = ()
    cpu_milli: int = 0  # 0 = what the machine has; set where several agents share a machine
    memory_bytes: int = 0  # likewise
    storage_bytes: int = 0  # likewise
    network_mbps: int = 0  # likewise; virtual interfaces do not say how fast they are
    devices: tuple[DeclaredDevice, ...] = ()
    triton: TritonPaths | None = None
    collector: str = ""  # "http://host:port" of the OTLP/HTTP collector, for Triton's own spans
    grace_s: float = 10.0  # for slices when the agent is told to stop

    @property
    def trace_url(self) -> str:
        """Where Triton sends its spans; empty = nowhere."""
        return f"{self.collector.rstrip('/')}/v1/traces" if self.collector else ""

    @property
    def name(self) -> str:
        """The node's resource name; its pool is `-` while it is left open."""
        if self.pool == OPEN:
            check_id(self.node, "node")
            return f"pools/{OPEN}/nodes/{self.node}"
        return str(NodeName(pool=self.pool, node=self.node))
