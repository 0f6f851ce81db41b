"""The call being served: what the middleware learnt about it, for the servicer and for everything below it."""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import grpc

from chassis.credentials import issued_at
from lepton.errors import LeptonError
from lepton.names import project_of

if TYPE_CHECKING:
    from chassis.method import Method
    from chassis.telemetry import Span, Trace


POLICY_REVISION: Final = "x-lepton-policy-revision"  # in a call's metadata, and in the trailers of a write of policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls: a user, a service account, or a peer of the mesh by its SPIFFE id."""

    name: str
    token_id: str = ""
    session: str = ""
    issued_at: float = 0.0
    expires_at: float = float("inf")
    projects: tuple[str, ...] = ()
    is_peer: bool = False  # a service or an agent that proved itself by its certificate
    permissions: tuple[str, ...] = ()  # the token is good for no others; empty = for all that its principal holds
    within: str = ""  # ... and only on this resource and what lies in it; empty = everywhere

    @property
    def is_limited(self) -> bool:
        """Whether the token is good for a part only of what its principal may do."""
        return bool(self.permissions or self.within)


class Call:
    """One call: its method, metadata, deadline and caller. Mutable, because the middleware fills it in."""

    __slots__ = (
        "_peer", "asked", "authorization", "code", "context", "cut_by", "deadline", "error", "is_audited",
        "is_sending", "method", "policy_revision", "principal", "received", "request_id", "resource", "sent", "span",
        "started", "task", "trace", "traceparent",
    )  # fmt: skip

    def __init__(self, method: "Method", context: Any) -> None:
        self.method = method
        self.context = context
        self.started = monotonic()
        self.deadline: float | None = None  # monotonic
        self.authorization = ""
        self.traceparent = ""
        self.request_id = ""
        self.policy_revision = ""  # decide by the policy of this revision or a later one
        for key, value in _metadata.get() or context.invocation_metadata() or ():
            if key == "authorization":
                self.authorization = value
            elif key == "traceparent":
                self.traceparent = value
            elif key == "x-request-id":
                self.request_id = value[:128]
            elif key == POLICY_REVISION:
                self.policy_revision = value
        self.principal: Principal | None = None
        self.asked = ""  # the resource that the rule looks at, whether or not it was authorised
        self.resource = ""  # that was authorised
        self.is_audited = False  # its record is in the audit log already, with what it did
        self.trace: Trace | None = None
        self.span: Span | None = None
        self.error: BaseException | None = None  # a LeptonError once the errors middleware has seen it
        self.code = grpc.StatusCode.OK
        self.sent = self.received = 0
        self.cut_by: LeptonError | None = None
        self.task: asyncio.Task[Any] | None = None  # set for streams, which may be cut
        self.is_sending = False  # a message is on its way out
        self._peer: str | None = None

    @property
    def project(self) -> str | None:
        """The project of the resource that was authorised."""
        return project_of(self.resource)

    @property
    def peer(self) -> str:
        """The SPIFFE id of the mesh peer; empty on the client listener."""
        if self._peer is None:
            ids = self.context.auth_context().get("peer_spiffe_id", ())
            self._peer = next((name.decode() for name in ids), "")
        return self._peer

    @property
    def certified_at(self) -> float:
        """When the mesh peer's certificate was issued, in Unix seconds."""
        found = self.context.auth_context().get("x509_pem_cert", ())
        return next((issued_at(pem) for pem in found), 0.0)

    @property
    def peer_service(self) -> str:
        """The peer as access rules name it: the service's name, or `agent`."""
        kind, _, rest = self.peer.partition("://")[2].partition("/")[2].partition("/")
        return rest if kind == "service" else kind

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline; None when the caller set none."""
        return None if self.deadline is None else self.deadline - monotonic()

    def cut(self, error: LeptonError) -> None:
        """End a stream that is being served, with this error; a message that is on its way out goes out first.

        A task that is cancelled within a write of grpc.aio 1.81 never gets its status out: its caller would wait on.
        """
        if self.task is not None and self.cut_by is None:
            self.cut_by = error
            if not self.is_sending:
                self.task.cancel()


# grpc.aio decodes the metadata to find the handler; decoding it again for the call would cost 5 us.
_metadata: ContextVar[Any] = ContextVar("lepton_metadata", default=None)
_current: ContextVar[Call | None] = ContextVar("lepton_call", default=None)
# A call has a task, and so a context, of its own: nothing is ever reset.
enter_call: Final = _current.set
keep_metadata: Final = _metadata.set


def current_call() -> Call | None:
    """The call that is being served in this task; None in background loops."""
    return _current.get()
