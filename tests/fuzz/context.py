"""A call without a wire: what the middleware and the servicers ask of grpc.aio's context, and what they leave in it."""

from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

Metadata = Sequence[tuple[str, str | bytes]]


class FuzzContext:
    """One call's context."""

    def __init__(self, metadata: Metadata = (), peer_id: str = "") -> None:
        self._metadata = tuple(metadata)
        self._peer_id = peer_id
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self.trailers: Metadata = ()
        self.written: list[Any] = []

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def time_remaining(self) -> float:
        return 30.0

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_spiffe_id": [self._peer_id.encode()]} if self._peer_id else {}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"

    def code(self) -> grpc.StatusCode | None:
        return self.status

    def set_trailing_metadata(self, trailers: Metadata) -> None:
        self.trailers = (*self.trailers, *trailers)

    async def send_initial_metadata(self, _metadata: Metadata) -> None:
        pass

    async def write(self, message: Any) -> None:
        self.written.append(message)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailers: Metadata = ()) -> NoReturn:
        self.status, self.details, self.trailers = code, details, (*self.trailers, *trailers)
        raise grpc.aio.AbortError

    def add_done_callback(self, _callback: Any) -> None:
        pass

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return self.status is not None
