"""What a caller gets back, as bytes: all of it, so that what tells two answers apart is not left out."""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from lepton.channel import ServersEnd
from tests.tenancy.rpcs import Rpc

PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answered call: status, message, metadata before and behind, and the messages as they came."""

    code: str
    details: str = ""
    initial: tuple[tuple[str, bytes], ...] = ()
    trailing: tuple[tuple[str, bytes], ...] = ()
    messages: tuple[bytes, ...] = ()

    def holds(self, texts: Iterable[str]) -> list[str]:
        """Those of the texts that are anywhere in it."""
        whole = b"\0".join(
            (*self.messages, self.details.encode(), *(value for _, value in (*self.initial, *self.trailing)))
        )
        return [text for text in texts if text.encode() in whole]

    def with_text(self, old: str, new: str) -> "Answer":
        """The same with one text in place of another that is as long: no length in it changes."""
        assert len(old.encode()) == len(new.encode()), (old, new)
        return self._turned(lambda data: data.replace(old.encode(), new.encode()))

    def anonymous(self, pattern: re.Pattern[bytes]) -> "Answer":
        """The same with zeros for whatever matches."""
        return self._turned(lambda data: pattern.sub(lambda found: b"0" * len(found[0]), data))

    def _turned(self, turn: Callable[[bytes], bytes]) -> "Answer":
        return replace(
            self,
            details=turn(self.details.encode()).decode(),
            initial=tuple((key, turn(value)) for key, value in self.initial),
            trailing=tuple((key, turn(value)) for key, value in self.trailing),
            messages=tuple(turn(each) for each in self.messages),
        )

    def settled(self, rpc: Rpc) -> "Answer":
        """The same without what differs between any two calls that succeed: ids, times, revisions, counts of them."""
        return replace(
            self,
            messages=tuple(_settled(rpc.answer(each)) for each in self.messages),
            trailing=tuple((key, value) for key, value in self.trailing if key != "x-lepton-policy-revision"),
        )


async def ask(
    channel: grpc.aio.Channel,
    rpc: Rpc,
    *requests: Any,
    most: int = 1,
    timeout_s: float = PATIENCE_S,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """Call with these requests (one, unless it streams them); of a stream's answers the first `most` are taken."""
    kind = f"{'stream' if rpc.streams_requests else 'unary'}_{'stream' if rpc.streams_responses else 'unary'}"
    method = getattr(channel, kind)(rpc.path, request_serializer=lambda each: each.SerializeToString())
    sent = _each(requests) if rpc.streams_requests else requests[0]
    call = method(sent, timeout=timeout_s, metadata=metadata)
    end = ServersEnd()
    if rpc.streams_requests:
        call.add_done_callback(end)
    messages: list[bytes] = []
    try:
        if rpc.streams_responses:
            async for message in call:
                messages.append(message)
                if len(messages) >= most:
                    break
        else:
            messages.append(await call)
    except grpc.aio.AioRpcError as raised:
        error = end.error or raised
        return Answer(
            code=error.code().name,
            details=error.details() or "",
            initial=_pairs(error.initial_metadata()),
            trailing=_pairs(error.trailing_metadata()),
            messages=tuple(messages),
        )
    finally:
        call.cancel()
    trailing = _pairs(await call.trailing_metadata()) if not rpc.streams_responses else ()
    return Answer(code="OK", trailing=trailing, messages=tuple(messages))


async def _each(requests: tuple[Any, ...]) -> Any:
    for request in requests:
        yield request
    await asyncio.sleep(0)


def _pairs(metadata: Any) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((key, value if isinstance(value, bytes) else value.encode()) for key, value in metadata or ()))


_DIFFERS: Final = frozenset({
    "uid", "etag", "trace_context", "revision", "latest_revision", "policy_revision", "latest_version", "sequence",
    "rollout", "message", "state", "pending_reason", "workload", "generation", "assignments",
    "versions", "current_version",
})  # fmt: skip
_COUNTED: Final = re.compile(r"(?<=/versions/)\d+|(?<=/revisions/)\d+|(?<=lpk_)[\w-]+")


def _settled(message: Message) -> bytes:
    _clear(message)
    return message.SerializeToString(deterministic=True)


def _clear(message: Any) -> None:
    for field, value in message.ListFields():
        inner = field.message_type
        is_time = inner is not None and inner.full_name == "google.protobuf.Timestamp"
        if field.name in _DIFFERS or is_time:
            message.ClearField(field.name)
        elif inner is not None and not inner.GetOptions().map_entry:
            for each in value if field.is_repeated else (value,):
                _clear(each)
        elif field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, _COUNTED.sub("N", value))
