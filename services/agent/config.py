"""The agent's settings. A minimal file:

node = "n1"                                # the node's id; its name is pools/<pool>/nodes/<node>
pool = "general"                           # without it the pools' membership rules decide
state_dir = "/var/lib/lepton/agent"        # work folders and the lock; one agent per directory
artifacts = "file:///srv/lepton/artifacts" # where ranks and replicas read and write artifacts
secrets_dir = "/run/lepton"                # on a tmpfs: where files of secrets lie; default: in the user's or /dev/shm

[peers]                                    # mesh ports
auth = "127.0.0.1:7002"
scheduler = "127.0.0.1:7202"
trainer = "127.0.0.1:7302"
inference = "127.0.0.1:7402"               # needed by shared model servers only

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
memory_growth_bytes = 1073741824           # a server that grew by more is replaced, and no call is lost; 0 = never

[isolation]                                # as whom and within which limits jobs run; the defaults need no rights
first_uid = 200000                         # with an agent that runs as root: each project gets a user of its own
uids = 1000                                # how many there are to give
cgroup = "/sys/fs/cgroup/lepton"           # a folder of cgroup 2 handed over to the agent, with no process in it
processes = 4096                           # of one slice, where there is a cgroup
cpu_burst = 2.0                            # times its cores that a slice may use; 0 = whatever is idle
hidden = ["/etc/lepton/secrets"]           # folders whose files jobs cannot read, beside state_dir (Linux >= 5.13)
memory = true                              # ranks that use more memory than they asked for are ended
open_files = 65536
file_bytes = 0                             # the largest file that a job may write; 0 = no limit

[caches]                                   # what is kept of what jobs were given; the longest unused goes first
code_bytes = 4294967296
data_bytes = 68719476736
environment_bytes = 34359738368
model_bytes = 68719476736

[pip]                                      # how the environments of jobs with requirements are made
timeout_s = 900
from_source = false                        # packages without a wheel are built, which runs their code
environment = { PIP_INDEX_URL = "https://pypi.example.com/simple" }  # beside the agent's own PIP_* variables
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from chassis.config import ServiceConfig
from lepton.artifacts import Location
from lepton.names import NodeName, check_id
from services.agent.isolation import IsolationSettings
from services.agent.requirements import PipSettings
from services.agent.staging import CacheSettings

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
    """Where Triton lies; all four paths are needed."""

    server: Path
    backends: Path
    libs: Path
    python_path: Path
    memory_growth_bytes: int = 1 << 30


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
    collector: str = ""  # "https://host:port" of the OTLP/HTTP collector, for Triton's own spans; also http
    grace_s: float = 10.0  # for slices when the agent is told to stop
    scratch_dir: Path | None = None  # where TMPDIR of ranks lies; short, for sockets lie in it; None = in the system's
    secrets_dir: Path | None = None  # where files of secrets lie: on a tmpfs; None = the first one found
    isolation: IsolationSettings = field(default_factory=IsolationSettings)
    caches: CacheSettings = field(default_factory=CacheSettings)
    pip: PipSettings = field(default_factory=PipSettings)

    @property
    def artifact_folders(self) -> tuple[str, ...]:
        """Where the artifact store lies on this machine; empty when it is elsewhere."""
        url = Location.parse(self.artifacts).url
        return (url.removeprefix("file://"),) if url.startswith("file://") else ()

    @property
    def scratch(self) -> Path:
        """The folder of the ranks' TMPDIRs: this agent's own."""
        name = hashlib.sha256(str(self.state_dir.absolute()).encode()).hexdigest()[:8]
        return (self.scratch_dir or Path(tempfile.gettempdir())) / f"lepton-{name}"

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
