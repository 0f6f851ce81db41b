"""The health service (grpc.health.v1): every service of a server by name, and "" for the server itself."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from grpc_health.v1 import health_pb2, health_pb2_grpc

from lepton.errors import NotFound

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the package ships no types
    """Says whether services serve, and tells watchers when that changes."""

    def __init__(self) -> None:
        self._statuses: dict[str, Any] = {"": NOT_SERVING}
        self._changed = asyncio.Event()

    def set(self, services: Iterable[str], *, is_serving: bool) -> None:
        """Set the status of these services and of the server."""
        self._statuses.update(dict.fromkeys(("", *services), SERVING if is_serving else NOT_SERVING))
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Nothing serves any more."""
        self.set(list(self._statuses), is_serving=False)

    async def Check(self, request: Any, context: Any) -> Any:
        """The status now; NOT_FOUND for a service that is not here."""
        status = self._statuses.get(request.service)
        if status is None:
            raise NotFound("SERVICE_NOT_FOUND", service=request.service[:256])
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        """The statuses of all services."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The status now and whenever it changes; SERVICE_UNKNOWN, and still open, for a service that is not here."""
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()
