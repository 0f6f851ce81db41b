"""What every call passes: the check of its token, the record of it, and the fault that is planned for it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_status import rpc_status

from lepton.errors import LeptonError
from tests.harness.small_lepton.world import World

_PUBLIC = {"SignIn", "RefreshSession", "GetJwks"}


class Faults(grpc.aio.ServerInterceptor):
    """Checks tokens, records calls, injects failures by position, and sends lepton.errors."""

    def __init__(self, world: World, service: str) -> None:
        self.world, self.service = world, service

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        method = details.method.rpartition("/")[2]
        metadata = dict(details.invocation_metadata)
        world, service = self.world, self.service

        async def enter(request: Any) -> Callable[[], None]:
            world.calls.append((method, request))
            world.headers.append((method, metadata))
            before, after = world.planned(method)
            if before is not None:
                raise before
            if method not in _PUBLIC:
                world.check(metadata.get("authorization", ""), service)

            def leave() -> None:
                if after is not None:
                    raise after

            return leave

        async def unary(request: Any, context: Any) -> Any:
            try:
                leave = await enter(request)
                answer = await (handler.unary_unary or handler.stream_unary)(request, context)
                leave()
            except LeptonError as error:
                await context.abort_with_status(rpc_status.to_status(error.to_status(f"{service}.lepton")))
            return answer

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                leave = await enter(request)
                async for answer in handler.unary_stream(request, context):
                    yield answer
                    world.sent[method] += 1
                    leave()
            except LeptonError as error:
                await context.abort_with_status(rpc_status.to_status(error.to_status(f"{service}.lepton")))

        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(stream, **coding)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(unary, **coding)
        return grpc.unary_unary_rpc_method_handler(unary, **coding)
