"""Owns the set of files that one Envoy reads: rendered from values without side effects, then replaced by rename."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

from services.inference.envoy.clusters import cluster_files, collector_cluster
from services.inference.envoy.filters import DESCRIPTORS, discovered_filters
from services.inference.envoy.listener import listener
from services.inference.envoy.rejections import versioned
from services.inference.envoy.route_table import route_table
from services.inference.envoy.routes import Gateway, Routes
from services.inference.envoy.secrets import certificate, roots
from services.inference.envoy.upstream import TYPE, Json, file_source

_ADDITION = ("cds.json", "rds.json", "lds.json", "bootstrap.json")
_REMOVAL = ("rds.json", "cds.json", "lds.json", "bootstrap.json")


def render(gateway: Gateway, routes: Routes) -> dict[str, bytes]:
    """Every file below the gateway's directory, by relative path; equal values render to equal bytes."""
    documents: dict[str, Json] = {
        "bootstrap.json": _bootstrap(gateway),
        "sds.json": {"resources": [certificate(gateway)]},
        # Envoy takes one secret per file.
        **({"sds_roots.json": {"resources": [roots(gateway)]}} if gateway.roots is not None else {}),
        "lds.json": {"resources": [listener(gateway)]},
        "rds.json": {"resources": [route_table(gateway, routes)]},
        **discovered_filters(gateway, routes),
        **cluster_files(gateway, routes),
    }
    for resource in documents["cds.json"]["resources"]:
        resource["@type"] = TYPE + "envoy.config.cluster.v3.Cluster"
    told = {path: each if path == "bootstrap.json" else versioned(each) for path, each in documents.items()}
    files = {path: json.dumps(document, indent=1, sort_keys=True).encode() for path, document in told.items()}
    return {DESCRIPTORS: _descriptors(), **files}


def write(directory: Path, files: Mapping[str, bytes]) -> list[str]:
    """Replaces what differs, each file by rename, and returns the paths that changed, in the order of the changes.

    What is added appears from the leaves up (endpoints, clusters, routes) and what is removed disappears the other way
    round, so that at every moment a route finds its cluster and a cluster its endpoints.
    """
    stale = sorted(f"eds/{path.name}" for path in (directory / "eds").glob("*.json") if f"eds/{path.name}" not in files)
    order = _REMOVAL if stale else _ADDITION
    ranked = sorted(files, key=lambda path: (order.index(path) if path in order else -1, path))
    changed = [path for path in ranked if _replace(directory / path, files[path])]
    for path in stale:
        (directory / path).unlink()
    return changed + stale


def command(envoy: Path, gateway: Gateway, *, concurrency: int = 2) -> list[str]:
    """The argument list that runs the gateway in the foreground; `SIGTERM` ends it at once."""
    return [
        str(envoy),
        "--config-path",
        str(gateway.directory / "bootstrap.json"),
        "--admin-address-path",
        str(gateway.directory / "admin.address"),
        "--disable-hot-restart",
        "--concurrency",
        str(concurrency),
        "--drain-time-s",
        str(gateway.drain_s),
        "--file-flush-interval-msec",
        "1000",
        "--log-level",
        "warning",
    ]


def _bootstrap(gateway: Gateway) -> Json:
    clusters = [collector_cluster(gateway, gateway.collector)] if gateway.collector else []
    bootstrap: Json = {
        # Histograms are merged when somebody asks: who watches a rollout sees the last second, not the last interval.
        "stats_flush_on_admin": True,
        "node": {"id": "gateway", "cluster": "lepton"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": gateway.admin_port}}},
        "overload_manager": {"resource_monitors": [_connection_limit(gateway.max_connections)]},
        "dynamic_resources": {
            "lds_config": file_source(gateway.directory / "lds.json"),
            "cds_config": file_source(gateway.directory / "cds.json"),
        },
        "static_resources": {"clusters": clusters},
    }
    return bootstrap


def _connection_limit(limit: int) -> Json:
    kind = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {"@type": TYPE + kind, "max_active_downstream_connections": limit},
    }


def _descriptors() -> bytes:
    files = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.file.append(file)
    return files.SerializeToString(deterministic=True)


def _replace(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    # Nobody else reads them: they hold the key by which the holder of calls knows its gateway.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return True
