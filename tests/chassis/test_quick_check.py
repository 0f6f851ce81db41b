"""What the cheap proof accepts, protovalidate accepts: for every request of every proto, over random messages."""

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st
from protovalidate import Validator

from bench.echo import EchoMessage, PingMessage
from chassis.quick_check import proof_of
from deploy.retry_policy import methods

pytestmark = pytest.mark.exhaustive

VALIDATOR = Validator()
REQUESTS = {method.input_type.full_name: method.input_type for method in methods()}
REQUESTS |= {message.DESCRIPTOR.full_name: message.DESCRIPTOR for message in (EchoMessage, PingMessage)}
TEXTS = st.one_of(
    st.sampled_from(["", "a", "a-b", "A", "projects/acme", "projects/acme/jobs/one", "one\n", "é", "x" * 600, "-", "1",
                     "00000000-0000-4000-8000-000000000000", "agent/n7", "service/trainer", "sha256:" + "0" * 64]),
    st.text(max_size=80),
    st.from_regex(r"[a-z0-9/:@-]{0,70}", fullmatch=True),
)  # fmt: skip
NUMBERS = st.one_of(st.sampled_from([0, 1, -1, 50, 1000, 1001, 2**31 - 1]), st.integers(-(2**31), 2**31 - 1))
_INTEGERS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)


def fill(draw: st.DrawFn, message: Any, depth: int = 0) -> Any:
    descriptor: Descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None:
            if not field.is_repeated and depth < 2:
                getattr(message, field.name).SetInParent()
                fill(draw, getattr(message, field.name), depth + 1)
        elif field.is_repeated:
            continue
        elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, draw(TEXTS))
        elif field.cpp_type in _INTEGERS:
            setattr(message, field.name, draw(NUMBERS))
    return message


@pytest.mark.parametrize("name", sorted(REQUESTS))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_is_proved_is_valid(name: str, data: st.DataObject) -> None:
    proves = proof_of(REQUESTS[name])
    if proves is None:
        return

    @st.composite
    def messages(draw: st.DrawFn) -> Any:
        return fill(draw, GetMessageClass(REQUESTS[name])())

    message = data.draw(messages())
    if proves(message):
        assert VALIDATOR.collect_violations(message) == []


def test_most_requests_can_be_proved() -> None:
    proved = [name for name, message in REQUESTS.items() if proof_of(message) is not None]
    assert len(proved) / len(REQUESTS) > 0.8


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (PingMessage(name="projects/acme", text="x"), True),
        (PingMessage(name="x" * 512), True),
        (PingMessage(name="x" * 513), False),
        (EchoMessage(text="x", count=1000), True),
        (EchoMessage(text="x", count=1001), False),
        (EchoMessage(text="x", count=-1), False),
        (EchoMessage(text="x", inner=EchoMessage()), False),
        (EchoMessage(text="x", children=[EchoMessage()]), False),
    ],
)
def test_what_it_proves(message: Any, expected: bool) -> None:
    proves = proof_of(message.DESCRIPTOR)
    assert proves is not None
    assert proves(message) is expected
