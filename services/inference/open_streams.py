"""Ends the open streams of those who may not call any more, at Envoy, which by itself asks only when a call begins.

Envoy's external processor (envoy.service.ext_proc.v3) has one call here for every stream of inferences there. It is not
answered: Envoy begins it again, here or at the service's successor, when it breaks, and ends its stream when it fails
with the reason.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from chassis.logs import logger
from lepton.errors import LeptonError, PermissionDenied
from services.inference.envoy.access import Caller, CallRules, standing
from services.inference.envoy.extprocpb.external_processor_pb2 import ProcessingRequest
from services.inference.envoy.routes import Routes

log = logger(__name__)

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_CLAIMS: Final = "envoy.filters.http.jwt_authn"
_FIELDS: Final = "envoy.filters.http.grpc_field_extraction"


class OpenStreams:
    """The streams that are open at one Envoy, and the rules that they have to keep to.

    Until the routes are known, nobody is cut for want of a role: it may be on the model that a route serves.
    """

    def __init__(self) -> None:
        self._above: dict[str, str] | None = None
        self._rules: CallRules | None = None
        self._open: dict[asyncio.Future[LeptonError], Caller] = {}

    def __len__(self) -> int:
        return len(self._open)

    def use(self, rules: CallRules) -> None:
        """Judge by these from now on, what is open too."""
        self._rules = rules
        self._judge_all()

    def follow(self, routes: Routes) -> None:
        """Remember of which model each served model is a version: a role on it counts too."""
        is_first, known = self._above is None, self._above or {}
        called = {caller.model for caller in self._open.values()}  # a stream may outlive its route
        kept = {model: known[model] for model in called & known.keys()}
        self._above = {**kept, **{route.model: route.above for route in routes.routes}}
        if is_first:
            self._judge_all()

    async def watch(self, requests: AsyncIterator[bytes]) -> None:
        """One stream at Envoy: returns when it has ended. Raises LeptonError: why it must not go on."""
        cut: asyncio.Future[LeptonError] = asyncio.get_running_loop().create_future()
        waiting: asyncio.Future[bytes] | None = None
        incoming = aiter(requests)
        try:
            while True:
                waiting = asyncio.ensure_future(anext(incoming, b""))
                either: set[asyncio.Future[Any]] = {waiting, cut}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if cut.done():
                    raise cut.result()
                data = waiting.result()
                if not data:
                    return
                request = ProcessingRequest.FromString(data)
                if request.HasField("request_headers"):
                    self._open[cut] = _caller(request)
                    self._judge(cut, self._open[cut])
        finally:
            self._open.pop(cut, None)
            if waiting is not None:
                waiting.cancel()

    def _judge_all(self) -> None:
        for cut, caller in list(self._open.items()):
            self._judge(cut, caller)

    def _judge(self, cut: "asyncio.Future[LeptonError]", caller: Caller) -> None:
        if self._rules is None or cut.done():
            return
        error = standing(self._rules, caller, (self._above or {}).get(caller.model, ""))
        if error is not None and (self._above is not None or not isinstance(error, PermissionDenied)):
            log.info("stream cut", principal=caller.principal, model=caller.model, reason=error.reason)
            cut.set_result(error)


def _caller(request: ProcessingRequest) -> Caller:
    told = {name: MessageToDict(found) for name, found in request.metadata_context.filter_metadata.items()}
    claims, names = told.get(_CLAIMS, {}).get("claims", {}), told.get(_FIELDS, {}).get("model_name", [])
    return Caller(
        principal=str(claims.get("sub", "")),
        token=str(claims.get("jti", "")),
        session=str(claims.get("sid", "")),
        issued=float(claims.get("iat", 0)),
        model=str(next(iter(names), "")),
    )
