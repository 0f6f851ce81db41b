"""Owns the set of files that one Envoy reads: rendered from values without side effects, then replaced by rename."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

from services.inference.envoy.clusters import TYPE, Json, cluster_files, collector_cluster, file_source
from services.inference.envoy.listener import DESCRIPTORS, certificate, listener, route_table
from services.inference.envoy.routes import Gateway, Routes


def render(gateway: Gateway, routes: Routes) -> dict[str, bytes]:
    """Every file below the gateway's directory, by relative path; equal values render to equal bytes."""
    documents: dict[str, Json] = {
        "bootstrap.json": _bootstrap(gateway),
        "sds.json": {"resources": [certificate(gateway)]},
        "lds.json": {"resources": [listener(gateway)]},
        "rds.json": {"resources": [route_table(gateway, routes)]},
        **cluster_files(gateway, routes),
    }
    for resource in documents["cds.json"]["resources"]:
        resource["@type"] = TYPE + "envoy.config.cluster.v3.Cluster"
    files = {path: json.dumps(document, indent=1, sort_keys=True).encode() for path, document in documents.items()}
    return {DESCRIPTORS: _descriptors(), **files}


def write(directory: Path, files: Mapping[str, bytes]) -> list[str]:
    """Replaces what differs, each file by rename, and returns the paths that changed.

    Additions go from the leaves up (endpoints, clusters, routes) and removals come last, so that at every moment a
    route finds its cluster and a cluster its endpoints.
    """
    changed = [path for path in _in_order(files) if _replace(directory / path, files[path])]
    for stale in sorted((directory / "eds").glob("*.json")):
        if f"eds/{stale.name}" not in files:
            stale.unlink()
            changed.append(f"eds/{stale.name}")
    return changed


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
        "--log-level",
        "warning",
    ]


def _bootstrap(gateway: Gateway) -> Json:
    bootstrap: Json = {
        "node": {"id": "gateway", "cluster": "lepton"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": gateway.admin_port}}},
        "dynamic_resources": {
            "lds_config": file_source(gateway.directory / "lds.json"),
            "cds_config": file_source(gateway.directory / "cds.json"),
        },
        "static_resources": {"clusters": [collector_cluster(gateway.collector)] if gateway.collector else []},
    }
    return bootstrap


def _descriptors() -> bytes:
    files = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.file.append(file)
    return files.SerializeToString(deterministic=True)


def _in_order(files: Mapping[str, bytes]) -> list[str]:
    rank = {"cds.json": 1, "rds.json": 2, "lds.json": 3, "bootstrap.json": 4}
    return sorted(files, key=lambda path: (rank.get(path, 0), path))


def _replace(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return True
