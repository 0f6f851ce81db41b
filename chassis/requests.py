"""Idempotency of mutations: the record of a request's answer, written in the same transaction as its effect."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import Message

from chassis.call import current_call
from chassis.clock import Clock, SystemClock
from chassis.etags import etag
from chassis.kv import KV, Compare, Entry, LeaseNotFound, Op, OutcomeUnknown, Put, absent
from lepton.errors import Aborted, AlreadyExists, LeptonError
from lepton.internal.v1 import ledger_pb2

KEEP_S: Final = 24 * 3600
_SHARED_S: Final = 3600  # one lease serves the requests of an hour, so that a request costs no lease of its own
_ATTEMPTS: Final = 8

Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request's place in the records. Without a request_id it guards nothing and records nothing.

    Add `*claim.guard` to the transaction's conditions and `*claim.record(answer)` to its operations.
    """

    key: str = ""
    digest: bytes = b""
    lease: int | None = None

    @property
    def guard(self) -> Sequence[Compare]:
        """The request has not been answered yet."""
        return (absent(self.key),) if self.key else ()

    def record(self, answer: Message, resource: str = "") -> Sequence[Op]:
        """Remember the answer; a secret in it would be stored too, so such methods take no request_id."""
        return self.record_bytes(answer.SerializeToString(), resource) if self.key else ()

    def record_bytes(self, answer: bytes, resource: str = "") -> Sequence[Op]:
        """As `record`, of an answer that is serialised already."""
        if not self.key:
            return ()
        record = ledger_pb2.RequestRecord(request_digest=self.digest, resource=resource, response=answer)
        return (Put(self.key, record.SerializeToString(), self.lease),)


class Requests:
    """The requests that a service has answered in the last 24 hours, under `prefix` (".../requests/").

        async def create(self, request: CreateJobRequest) -> Job:
            return await self._requests.once(request, Job, lambda claim: self._create(request, claim))

        async def _create(self, request: CreateJobRequest, claim: Claim) -> Job | None:
            if await self._kv.get(key) is not None:
                raise AlreadyExists("JOB_ALREADY_EXISTS", job=str(name))
            done = await self._kv.txn([absent(key), *claim.guard], [Put(key, job), *claim.record(job)])
            return job if done.succeeded else None     # None: the state moved; look again

    A request_id belongs to its caller (the current call's principal) and its method. With a `digest_key` the digest
    stored is keyed: for services whose requests hold passwords.
    """

    def __init__(self, kv: KV, prefix: str, *, clock: Clock | None = None, digest_key: bytes = b"") -> None:
        self._kv = kv
        self._prefix = prefix
        self._clock = clock or SystemClock()
        self._digest_key = digest_key
        self._lease: int | None = None
        self._lease_until = 0.0

    async def once(
        self, request: Message, answer: type[Answer], write: Callable[[Claim], Awaitable[Answer | None]]
    ) -> Answer:
        """The answer recorded for this request, else what `write` answers; `write` returns None to be called again.

        A recorded answer that has an etag field gets the etag of that write. Raises AlreadyExists
        (IDEMPOTENCY_KEY_REUSED) when the request_id came with another request, and Aborted (WRITE_CONFLICT) when the
        state keeps moving.
        """
        for _ in range(_ATTEMPTS):
            recorded, claim = await self._look(request, answer)
            if recorded is not None:
                return recorded
            try:
                written = await write(claim)
            except LeptonError:
                # Perhaps a repeat of this very request, served at the same time, is what made it fail.
                recorded, _ = await self._look(request, answer) if claim.key else (None, claim)
                if recorded is None:
                    raise
                return recorded
            except LeaseNotFound:
                self.forget_lease()
                continue
            except OutcomeUnknown:
                if not claim.key:
                    raise
                continue  # the record tells; if it is absent, the guard lets only one of the two through
            if written is not None:
                return written
        raise Aborted("WRITE_CONFLICT")

    async def claim(self, request: Message) -> Claim:
        """A request's place, without a look whether it has been answered: the guard fails then, and `recall` tells."""
        if not getattr(request, "request_id", ""):
            return Claim()
        return Claim(key=self._key(request), digest=self._digest(request), lease=await self._shared_lease())

    def recall(self, request: Message, entry: Entry, answer: type[Answer]) -> Answer:
        """The answer that a request's record holds; AlreadyExists when the record is another request's."""
        record = ledger_pb2.RequestRecord.FromString(entry.value)
        if not hmac.compare_digest(record.request_digest, self._digest(request)):
            raise AlreadyExists("IDEMPOTENCY_KEY_REUSED", request_id=getattr(request, "request_id", ""))
        recorded = answer.FromString(record.response)
        if "etag" in recorded.DESCRIPTOR.fields_by_name:
            setattr(recorded, "etag", etag(entry.mod_revision))  # noqa: B010 - only some messages have it
        return recorded

    def forget_lease(self) -> None:
        """The lease of the records is gone; the next claim gets another."""
        self._lease = None

    async def _look(self, request: Message, answer: type[Answer]) -> tuple[Answer | None, Claim]:
        if not getattr(request, "request_id", ""):
            return None, Claim()
        entry = await self._kv.get(self._key(request))
        if entry is None:
            return None, await self.claim(request)
        return self.recall(request, entry, answer), Claim()

    def _key(self, request: Message) -> str:
        call = current_call()
        caller = call.principal.name if call is not None and call.principal is not None else ""
        named = "\0".join((caller, request.DESCRIPTOR.full_name, getattr(request, "request_id", "")))
        return self._prefix + hashlib.sha256(named.encode()).hexdigest()

    def _digest(self, request: Message) -> bytes:
        body = type(request)()
        body.CopyFrom(request)
        body.ClearField("request_id")
        data = body.SerializeToString(deterministic=True)
        return hmac.digest(self._digest_key, data, "sha256") if self._digest_key else hashlib.sha256(data).digest()

    async def _shared_lease(self) -> int:
        now = self._clock.monotonic()
        if self._lease is None or now >= self._lease_until:
            lease = await self._kv.grant(KEEP_S + _SHARED_S, keep_alive=False)
            self._lease, self._lease_until = lease.id, now + _SHARED_S
        return self._lease
