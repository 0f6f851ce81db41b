"""The environment of what the agent starts: torchrun's contract, Lepton's own, and what a user may add to them."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from lepton.errors import InvalidArgument
from lepton.internal.v1.run_report_pb2 import StartRunResponse
from services.agent.launcher.launch import rank_environment
from services.agent.order import SliceOrder
from services.agent.runner import Surroundings

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
# Set by the agent alone: what they say must be true.
_OWN_PREFIXES: Final = ("LEPTON_", "TORCHELASTIC_")
_OWN: Final = frozenset(
    (
        "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE",
        "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PATH", "HOME", "TMPDIR",
        "TRACEPARENT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_CERTIFICATE", "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
    )
)  # fmt: skip
_MOST_BYTES: Final = 128 << 10
NODE_PYTHON: Final = "lepton-python"
"""As a program's command: the interpreter that the node's own Lepton runs in, wherever that is."""


def checked(environment: Mapping[str, str]) -> dict[str, str]:
    """A user's variables; InvalidArgument when one of them would change what runs instead of what it is told."""
    for name, value in environment.items():
        if _NAME.fullmatch(name) is None or "\0" in value:
            raise _refused(name, "is not the name and value of an environment variable")
        if name in _OWN or name.startswith(_OWN_PREFIXES):
            raise _refused(name, "is set by the agent; leave it out")
    rank_environment({}, environment)  # refuses the names of loaders, interpreters and shells
    if sum(len(name) + len(value) for name, value in environment.items()) > _MOST_BYTES:
        raise InvalidArgument("INVALID_FIELD", fields={"environment": f"is larger than {_MOST_BYTES} bytes"})
    return dict(environment)


def checked_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """Arguments as they are given to exec, never to a shell; InvalidArgument when exec could not take them."""
    if any("\0" in argument for argument in argv):
        raise InvalidArgument("INVALID_FIELD", fields={"argv": "holds a NUL character"})
    if sum(map(len, argv)) > _MOST_BYTES:
        raise InvalidArgument("INVALID_FIELD", fields={"argv": f"is larger than {_MOST_BYTES} bytes"})
    return tuple(argv)


def command(argv: Sequence[str]) -> tuple[str, ...]:
    """The command of a program, its interpreter filled in where it asks for the node's own."""
    checked = checked_argv(argv)
    return (sys.executable, *checked[1:]) if checked[:1] == (NODE_PYTHON,) else checked


def visible_devices(order: SliceOrder, uuids: Mapping[int, str]) -> str:
    """The accelerators that a slice may see, by their vendor's ids; `uuids` holds the real ones of the node by index.

    Ranks that have one device each see those of all ranks of the node, because a rank takes the one of its LOCAL_RANK.
    """
    mates = list(order.gang.devices.values())
    is_one_each = all(len(devices) == 1 for devices in mates) and len(set(mates)) == len(mates)
    seen = [devices[0] for devices in mates] if order.program.HasField("torch") and is_one_each else order.devices
    return ",".join(uuids[index] for index in seen if index in uuids)


def slice_variables(
    order: SliceOrder, place: Surroundings, *, traceparent: str, visible_devices: str
) -> dict[str, str]:
    """What every slice is told, whatever it runs."""
    return {
        "LEPTON_PROJECT": order.project,
        "LEPTON_GENERATION": str(order.key.generation),
        "LEPTON_ARTIFACTS": place.artifacts_of(order.project),
        "TRACEPARENT": traceparent,
        **_collector(place),
        "CUDA_VISIBLE_DEVICES": visible_devices,
    }


def task_variables(
    place: Surroundings, project: str, generation: int, traceparent: str, task_count: int
) -> dict[str, str]:
    """What every task of an array is told, beside its index and its devices."""
    return {
        "LEPTON_PROJECT": project,
        "LEPTON_GENERATION": str(generation),
        "LEPTON_ARTIFACTS": place.artifacts_of(project),
        "LEPTON_ARRAY_COUNT": str(task_count),
        "TRACEPARENT": traceparent,
        **_collector(place),
        "CUDA_VISIBLE_DEVICES": "",
    }


def _collector(place: Surroundings) -> dict[str, str]:
    """Where spans go, and whom to trust there, by OpenTelemetry's own names."""
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": place.otlp_endpoint}
    if place.otlp_certificate is not None:  # an empty one would be read as: trust anybody
        told["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(place.otlp_certificate)
    return told


def rank_variables(
    order: SliceOrder, *, store_endpoint: str, spec: Path, run: StartRunResponse, data: str = ""
) -> dict[str, str]:
    """torchrun's contract for a rank, and the part of Lepton's about training; `data` is where its data lies."""
    gang, (host, _, port) = order.gang, store_endpoint.rpartition(":")
    return {
        "RANK": str(order.key.index),
        "LOCAL_RANK": str(order.local_rank),
        "WORLD_SIZE": str(gang.size),
        "LOCAL_WORLD_SIZE": str(len(gang.local)),
        "GROUP_RANK": str(gang.group_rank),
        "GROUP_WORLD_SIZE": str(gang.group_count),
        "ROLE_RANK": str(order.key.index),
        "ROLE_NAME": order.group,
        "ROLE_WORLD_SIZE": str(gang.size),
        "MASTER_ADDR": host.strip("[]"),
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": gang.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(max(gang.generation - 1, 0)),
        "TORCHELASTIC_MAX_RESTARTS": "0",  # restarts are the scheduler's
        "TORCHELASTIC_ERROR_FILE": str(spec.with_name("error.json")),
        "LEPTON_JOB": order.program.torch.job,
        "LEPTON_SPEC": str(spec),
        "LEPTON_DATA": data,
        "LEPTON_RESUME": run.resume_manifest,
        "LEPTON_RESUME_OLDER": ",".join(run.older_manifests),
        "LEPTON_PARALLELISM": run.parallelism_json,
        "LEPTON_HANG_TIMEOUT_S": f"{run.hang_timeout_s:g}",
        "LEPTON_PREFLIGHT": str(int(run.preflight)),
    }


def _refused(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={f"environment.{name!r}": problem})
