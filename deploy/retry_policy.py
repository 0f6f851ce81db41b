"""Writes sdk/lepton/service_config.json from the protos: what a channel may send again (`--check` compares)."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

ROOT: Final = Path(__file__).resolve().parent.parent
FILE: Final = ROOT / "sdk" / "lepton" / "service_config.json"
# UNAVAILABLE, which gRPC promises for calls that may be sent again (AIP-194), and CANCELLED: a call that its own client
# did not cancel had reached a server that was about to end, which drops what it has not begun.
RETRY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}


def methods() -> Iterator[MethodDescriptor]:
    """Every method of our protos."""
    sdk = ROOT / "sdk"
    for path in sorted((sdk / "lepton").rglob("*_pb2.py")):
        module = import_module(".".join(path.relative_to(sdk).with_suffix("").parts))
        file: FileDescriptor = module.DESCRIPTOR
        for service in file.services_by_name.values():
            yield from service.methods


def may_repeat(method: MethodDescriptor) -> bool:
    """Whether the proto says that a repeat does no harm; a stream of requests cannot be sent again."""
    options: Any = method.GetOptions()
    return bool(options.idempotency_level) and not method.client_streaming


def service_config() -> dict[str, Any]:
    """gRPC's service config: balancing over replicas, retries of what may be repeated, and a brake on retries."""
    names = [
        {"service": method.containing_service.full_name, "method": method.name}
        for method in methods()
        if may_repeat(method)
    ]
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": RETRY}],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }


def main() -> None:
    """Write the file, or with --check say whether it is stale."""
    fresh = json.dumps(service_config(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        if FILE.read_text() != fresh:
            raise SystemExit("sdk/lepton/service_config.json is stale: run `python -m deploy.retry_policy`")
        return
    FILE.write_text(fresh)


if __name__ == "__main__":
    main()
