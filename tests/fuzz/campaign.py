"""Sends random requests to every method of a service, and keeps what was answered wrongly."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import grpc

from chassis.call import keep_metadata
from chassis.method import Method
from chassis.middleware import errors as errors_middleware
from lepton.errors import LeptonError
from tests.fuzz.context import FuzzContext, Metadata
from tests.fuzz.judge import from_trailers, judged
from tests.fuzz.messages import Maker, decoded
from tests.fuzz.world import Service

_TURNS: Final = 40
"""How often the loop goes round before a stream that waits for news is cut."""
_MOST_FINDINGS: Final = 200
# Each of them may end the session of who calls; signing in again is slow.
_SELDOM: Final = frozenset(
    {"SignOut", "RevokeAccess", "RotateSigningKey", "DisableUser", "SetPassword", "DeleteProject"}
)
_SELDOM_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """A request, and what was wrong about its answer."""

    path: str
    data: bytes
    problem: str
    cause: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.problem} {self.cause}\n  bytes.fromhex({self.data.hex()!r})"


@dataclass(slots=True)
class Report:
    """What a campaign came to."""

    inputs: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    by_method: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def text(self) -> str:
        """The findings, one of each kind."""
        kinds = {(each.path, each.cause or each.problem[:60]): each for each in self.findings}
        return f"{self.inputs} inputs, {dict(self.codes)}\n" + "\n".join(map(str, kinds.values()))


class Campaign:
    """Calls a service's methods in turn; the same seed makes the same requests."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._random = Random(seed)
        self._maker = Maker(self._random, service.names)
        self.report = Report()
        self.is_over = False
        """The service can no longer be asked as its administrator: go on with a new one."""
        self._causes: list[BaseException] = []
        self._forms: dict[str, dict[str, str]] = defaultdict(dict)

    async def run(self, inputs: int, only: Sequence[str] = ()) -> Report:
        """So many requests, evenly over the methods (of those names)."""
        methods = [each for each in self._service.unary if not only or each.name in only]
        with self._watched():
            for at in range(inputs):
                if self.is_over:
                    break
                method = methods[at % len(methods)]
                while method.name in _SELDOM and self._random.random() > _SELDOM_SHARE:
                    method = self._random.choice(methods)
                await self.one(method)
        return self.report

    async def one(self, method: Method) -> None:
        """One request to one method."""
        assert method.request_type is not None
        self._maker.forms = self._forms[method.path]
        message = self._maker.message(method.request_type)
        data = message.SerializeToString()
        roll = self._random.random()
        if roll < 0.25:
            data = self._maker.mutated(data)
        elif roll < 0.3:
            data = self._random.randbytes(self._random.randrange(200))
        metadata, peer = self._caller(method)
        context = await self.send(method, data, metadata, peer)
        self._learn(method, context)
        service = self._service
        if context.status is grpc.StatusCode.UNAUTHENTICATED and service.sign_in and self._is_root(metadata):
            try:
                service.root = await service.sign_in()
            except LeptonError:
                self.is_over = True  # somebody has changed the administrator's password: what follows says nothing

    async def send(self, method: Method, data: bytes, metadata: Metadata, peer_id: str = "") -> FuzzContext:
        """These bytes to this method; what is wrong about the answer goes into the report."""
        context = FuzzContext(metadata, peer_id)
        self._causes.clear()
        handler = self._service.handlers[method.path]
        problem = ""
        try:
            await self._served(handler, data, context)
        except grpc.aio.AbortError:
            problem = judged(context.status, context.details, context.trailers, self._said(method, data))
        except Exception as error:
            problem = f"{type(error).__name__} got out: {error}"
            self._causes.append(error)
        self.report.inputs += 1
        self.report.codes[context.status.name if context.status else "OK"] += 1
        self.report.by_method[method.path] += 1
        if problem and len(self.report.findings) < _MOST_FINDINGS:
            self.report.findings.append(Finding(method.path, data, problem, _where(self._causes)))
        return context

    async def _served(self, handler: Any, data: bytes, context: FuzzContext) -> None:
        keep_metadata(context.invocation_metadata())
        request = handler.request_deserializer(data)
        if not handler.response_streaming:
            response = await handler.unary_unary(request, context)
            handler.response_serializer(response)
            return
        task = asyncio.ensure_future(handler.unary_stream(request, context))
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if task.done():
                break
        else:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for response in context.written:
            handler.response_serializer(response)

    def _caller(self, method: Method) -> tuple[Metadata, str]:
        roll = self._random.random()
        rule = method.rule
        if rule is not None and rule.peers and (not rule.permission or roll < 0.3):
            peer = self._random.choice(sorted(rule.peers))
            return (), f"spiffe://lepton.local/{'agent/n1' if peer == 'agent' else f'service/{peer}'}"
        if roll < 0.02:
            return (), ""
        if roll < 0.04:
            return (("authorization", self._maker.text("token")),), ""
        token = self._service.alice if roll < 0.25 else self._service.root
        found: list[tuple[str, str | bytes]] = [("authorization", f"Bearer {token}")]
        if roll > 0.9:
            key = self._random.choice(("traceparent", "x-request-id", "x-lepton-policy-revision"))
            found.append((key, self._maker.text("header")))
        return found, ""

    def _learn(self, method: Method, context: FuzzContext) -> None:
        """Takes from a refusal of a name what form the method wants, so that the next ones get further."""
        if context.status is not grpc.StatusCode.INVALID_ARGUMENT:
            return
        error = from_trailers(context.trailers)
        if error is not None and error.reason == "INVALID_NAME" and error.fields:
            field = next(iter(error.fields)).rpartition(".")[2].partition("[")[0]
            self._forms[method.path][field] = error.metadata.get("pattern", "")

    def _is_root(self, metadata: Metadata) -> bool:
        return ("authorization", f"Bearer {self._service.root}") in metadata

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Keeps the exceptions that the middleware takes for bugs, so that a finding says where it comes from."""
        original = errors_middleware._bug

        def bug(call: Any, error: Exception) -> Any:
            self._causes.append(error)
            return original(call, error)

        errors_middleware._bug = bug
        try:
            yield
        finally:
            errors_middleware._bug = original

    def _said(self, method: Method, data: bytes) -> str:
        assert method.request_type is not None
        message = decoded(method.request_type, data)
        return "" if message is None else str(message)


def _where(causes: list[BaseException]) -> str:
    """The line that raised, for people."""
    if not causes:
        return ""
    error = causes[-1]
    trace, at = error.__traceback__, ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/site-packages/" not in name and "/tests/fuzz/" not in name:
            at = f"{name.rpartition('/sec/')[2] or name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"[{type(error).__name__}: {str(error)[:150]} at {at}]"
