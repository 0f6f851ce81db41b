"""Random messages of any kind, made from descriptors: half plausible, so that they get past the door, half hostile."""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Final

from buf.validate import validate_pb2
from google.api import field_behavior_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

HOSTILE_TEXTS: Final[Sequence[str]] = (
    "", " ", ".", "..", "../../etc/passwd", "%2e%2e/", "a\0b", "\n", "\r\n\r\n", "\x1b[31m", "-", "*", "~", "$(id)",
    ";",
    "'", '"', "`id`", "{0.__class__}", "%s%n", "${jndi:ldap://x}", "<script>", "\u202e", "\ufeff", "\u0130", "ﬃ",
    "😀" * 40,
    "é" * 300, "a" * 63, "a" * 64, "a" * 300, "a" * 5000, "0" * 300, "1e309", "NaN", "-1", "9" * 30, "true", "null",
    "{}",
    "[" * 200, "{" * 200, '{"a":' * 60, "(" * 300, "\ud7ff", "\U0010ffff", "projects/", "projects//jobs/",
    "projects/acme/",
    "projects/acme/jobs/x/../y", "projects/ACME", "projects/acme/jobs/" + "x" * 300, "users/", "roles/", "*/*",
    "file:///etc",
    "https://127.0.0.1/", "sha256:", "sha256:" + "0" * 64, "sha256:" + "g" * 64, "9223372036854775808",
    "-----BEGIN X-----",
)  # fmt: skip
NAMES: Final[Sequence[str]] = (
    "projects/acme", "projects/other", "projects/absent", "projects/acme/jobs/digits", "projects/acme/jobs/absent",
    "projects/acme/models/digits", "projects/acme/models/digits/versions/1",
    "projects/acme/models/digits/versions/champion",
    "projects/acme/deployments/digits", "projects/acme/deployments/digits/revisions/1", "projects/acme/workloads/w",
    "projects/acme/batchPredictions/b", "projects/acme/models/digits/optimizations/o",
    "projects/acme/serviceAccounts/robot",
    "projects/acme/serviceAccounts/robot/apiKeys/k", "projects/acme/secrets/s", "projects/acme/artifacts/" + "0" * 64,
    "projects/acme/uploads/" + "0" * 64, "pools/general", "pools/general/nodes/n1", "queues/default", "queues/root",
    "floatingResources/licences", "users/admin", "users/alice", "roles/viewer", "roles/admin", "roles/custom",
    "roleBindings/x", "signingKeys/x", "*", "compliancePolicies/p",
)  # fmt: skip
IDS: Final[Sequence[str]] = (
    "digits", "general", "x1", "a-b", "champion", "robot", "custom", "a", "z" * 63, "0" * 64, "sha256:" + "0" * 64,
    "sha256:" + "d" * 64, "jobs.create", "jobs.*", "x", "1", "image_classifier", "train.py", "requirements.txt", "k/y",
    "00000000-0000-4000-8000-000000000000", "localhost", "10.0.0.1", "http://x", "2026-01-01", "8Gi",
    "a long password",
)  # fmt: skip
FILTERS: Final[Sequence[str]] = (
    'state = "RUNNING"', "state:*", "create_time > 2026-01-31T12:00:00Z", "labels.team = x AND -name:*",
    "NOT (a OR b)",
    'name = "x" name = y', "metrics.accuracy >= 0.9", "tags.owner:*", "a = 1e999", 'x = "\\',
    "create_time > 2026-99-99",
)  # fmt: skip
_INTS: Final = (
    0,
    1,
    2,
    3,
    10,
    100,
    1000,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    -1,
    -2,
    -(2**31),
    -(2**63),
)
_FLOATS: Final = (0.0, -0.0, 0.5, 1.0, 1e-300, 1e308, float("inf"), float("-inf"), float("nan"), -1.0, 3e38, 1e39)
_PATHS: Final = (
    "display_name",
    "labels",
    "spec",
    "*",
    "name",
    "replicas",
    "a.b.c",
    "",
    "state",
    "Name",
    "labels.x",
    "..",
    "model_version",
)
_MOST_REPEATED: Final = 4
_DEPTH: Final = 6
_NUMERIC: Final = (
    FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE,
)  # fmt: skip
_BOUNDS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Maker:
    """Makes messages; `names` are the resources that there are, beside those that there may be."""

    def __init__(self, random: Random, names: Sequence[str] = ()) -> None:
        self.random = random
        self._names = (*names, *NAMES)
        self._is_careful = True
        self.forms: Mapping[str, str] = {}
        """By field name: the form of the resource name that the method has been found to want there."""

    def message(self, kind: Descriptor, depth: int = 0) -> Message:
        """One message of this kind."""
        made = message_factory.GetMessageClass(kind)()
        if depth == 0:
            self._is_careful = self.random.random() < 0.75
        fullness = self.random.choice((0.3, 0.7, 0.9))
        chosen = {oneof.name: self.random.choice(oneof.fields).name for oneof in kind.oneofs}
        for field in kind.fields:
            oneof = field.containing_oneof
            if oneof is not None and len(oneof.fields) > 1:
                if chosen[oneof.name] == field.name and (self._is_careful or self.random.random() < 0.5):
                    self._fill(made, field, depth)
                continue
            if (self._is_careful and is_required(field)) or self.random.random() < fullness:
                self._fill(made, field, depth)
        return made

    def text(self, field: str) -> str:
        """A text for a field of this name."""
        roll = self.random.random()
        form = self.forms.get(field)
        if form and roll < 0.75:
            return self._of_form(form)
        if roll < 0.2:
            return self.random.choice(HOSTILE_TEXTS)
        if roll < 0.25:
            return "".join(chr(self._character()) for _ in range(self.random.randrange(40)))
        if field == "parent" or field == "project":
            return self.random.choice(("projects/acme", "projects/acme", self._name(), "acme"))
        if field in {"filter", "order_by", "etag", "page_token", "request_id"}:
            return self._special(field)
        if field.endswith(("_id", "alias", "key")):
            return self.random.choice(("digits", "general", "x1", "a-b", "champion", self._name()))
        if field.endswith(("digest", "dataset", "package", "artifact")):
            return "sha256:" + self.random.choice("0a") * 64
        if roll < 0.85:
            return self._name()
        return self.random.choice(
            ("digits", "x", "RUNNING", "value", "1", "a.b", "image_classifier", "CPU", "jobs.create")
        )

    def mutated(self, data: bytes) -> bytes:
        """The bytes with something done to them."""
        made = bytearray(data)
        for _ in range(self.random.randrange(1, 5)):
            at = self.random.randrange(len(made) + 1)
            match self.random.randrange(7):
                case 0:
                    made[at:at] = self.random.randbytes(self.random.randrange(1, 9))
                case 1:
                    del made[at : at + self.random.randrange(1, 9)]
                case 2 if made:
                    made[at % len(made)] ^= 1 << self.random.randrange(8)
                case 3:
                    made[at : at + 1] = self.random.choice(
                        (b"\xff\xff\xff\xff\x0f", b"\x80" * 11, b"\x0b", b"\x0c", b"\x00")
                    )
                case 4:
                    made += made[at : at + 64]
                case 5:
                    del made[at:]
                case _:
                    made[at:at] = b"\x0a" + bytes((self.random.randrange(128),))
        return bytes(made)

    def _of_form(self, form: str) -> str:
        """A name of a form such as `projects/{project}/jobs/{job}`: one that there is, where there is one."""
        known = _of_form(form, self._names)
        if known and self.random.random() < 0.8:
            return self.random.choice(known)
        return _VARIABLE.sub(lambda _: self.random.choice(("digits", "absent", "x1", "1", "0" * 64)), form)

    def _name(self) -> str:
        return self.random.choice(self._names)

    def _character(self) -> int:
        found = self.random.choice(
            (self.random.randrange(32, 127), self.random.randrange(0x250), self.random.randrange(0x11000))
        )
        return found if not 0xD800 <= found < 0xE000 else 0x20

    def _special(self, field: str) -> str:
        if field == "filter":
            return self.random.choice(FILTERS)
        if field == "request_id":
            return str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        if field == "etag":
            return self.random.choice(('"1"', "1", '"x"', ""))
        if field == "order_by":
            return self.random.choice(("name", "create_time desc", "name, name", "x"))
        return self.random.choice(("", "", "abc", "A" * 43, "_" * 90))

    def _fill(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        kind = field.message_type
        if kind is not None and depth >= _DEPTH:
            return
        if kind is not None and kind.GetOptions().map_entry:
            self._fill_map(made, field, depth)
        elif field.is_repeated:
            for _ in range(self._items(field)):
                if kind is not None:
                    getattr(made, field.name).add().CopyFrom(self._inner(kind, depth))
                else:
                    getattr(made, field.name).append(self._scalar(field))
        elif kind is not None:
            getattr(made, field.name).CopyFrom(self._inner(kind, depth))
        else:
            setattr(made, field.name, self._scalar(field))

    def _items(self, field: FieldDescriptor) -> int:
        count, rules = self._count(), rules_of(field)
        if not self._is_careful or rules is None:
            return count
        most = rules.repeated.max_items if rules.repeated.HasField("max_items") else count
        return max(min(count, most), rules.repeated.min_items)

    def _count(self) -> int:
        return self.random.randrange(60) if self.random.random() < 0.02 else self.random.randrange(_MOST_REPEATED)

    def _fill_map(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        target = getattr(made, field.name)
        for _ in range(self._count()):
            if value.message_type is not None:
                target[self._scalar(key)].CopyFrom(self._inner(value.message_type, depth))
            else:
                target[self._scalar(key)] = self._scalar(value)

    def _inner(self, kind: Descriptor, depth: int) -> Message:
        special = _WELL_KNOWN.get(kind.full_name)
        return special(self, kind) if special is not None else self.message(kind, depth + 1)

    def _scalar(self, field: FieldDescriptor) -> Any:
        cpp = field.cpp_type
        if field.name == "at_least_revision" and self.random.random() < 0.99:
            return 0  # else the call waits for the policy of that revision, as long as it may
        if self._is_careful and self.random.random() < 0.97:
            allowed = self._allowed(field)
            if allowed is not None:
                return allowed
        if cpp == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return self.random.randbytes(self.random.choice((0, 1, 16, 32, 64, 400)))
            return self.text(field.name)
        if cpp == FieldDescriptor.CPPTYPE_BOOL:
            return self.random.random() < 0.5
        if cpp == FieldDescriptor.CPPTYPE_ENUM:
            known = [value.number for value in field.enum_type.values]
            return self.random.choice((*known, *known, 99, -1))
        if cpp in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return self.random.choice(_FLOATS)
        low, high = _BOUNDS[cpp]
        number = self.random.choice(_INTS) if self.random.random() < 0.4 else self.random.randrange(5)
        return min(high, max(low, number))

    def _allowed(self, field: FieldDescriptor) -> Any:
        """A value that the field's rules let through; None where they say nothing, or too much."""
        rules, cpp = rules_of(field), field.cpp_type
        if rules is not None and field.is_repeated:
            rules = rules.repeated.items
        if cpp == FieldDescriptor.CPPTYPE_ENUM:
            return self.random.choice([value.number for value in field.enum_type.values[1:]] or [0])
        if cpp == FieldDescriptor.CPPTYPE_STRING and field.type != FieldDescriptor.TYPE_BYTES:
            return self._fitting(field, rules)
        kind = rules.WhichOneof("type") if rules is not None else None
        if kind is None or cpp not in _NUMERIC:
            return None
        given = getattr(rules, kind)
        bounds = {set_.name: value for set_, value in given.ListFields() if set_.name in ("gt", "gte", "lt", "lte")}
        low, high = bounds.get("gte", bounds.get("gt", 0)), bounds.get("lte", bounds.get("lt", 1000))
        if cpp in _BOUNDS:
            return self.random.choice(
                (low + ("gt" in bounds), high - ("lt" in bounds), self.random.randint(low, max(low, high)))
            )
        return self.random.choice((low, high, low + (high - low) / 2))

    def _fitting(self, field: FieldDescriptor, rules: Any) -> str | None:
        if rules is None or not rules.HasField("string"):
            return None
        texts = fitting(rules.string.pattern, field.name)
        if rules.string.WhichOneof("well_known") == "uuid":
            return self._special("request_id")
        known = getattr(rules.string, "in")
        if known:
            return self.random.choice(list(known))
        most = rules.string.max_len if rules.string.HasField("max_len") else 1000
        if field.name in self.forms or not texts:
            return self.text(field.name)[:most] or "x"
        chosen = self.random.choice(texts)
        return chosen[:most]


_VARIABLE: Final = re.compile(r"\{\w+\}")


@lru_cache(maxsize=1000)
def _of_form(form: str, names: tuple[str, ...]) -> tuple[str, ...]:
    fits = re.compile("[^/]+".join(map(re.escape, _VARIABLE.split(form))))
    return tuple(name for name in names if fits.fullmatch(name))


@lru_cache(maxsize=1000)
def fitting(pattern: str, name: str) -> tuple[str, ...]:
    """The texts known here that a pattern lets through; those of a field's own kind where there are any."""
    if not pattern:
        return ()
    try:
        fits = re.compile(pattern)
    except re.error:
        return ()
    return tuple(text for text in (*NAMES, *IDS) if fits.search(text))


@lru_cache(maxsize=5000)
def rules_of(field: FieldDescriptor) -> Any:
    """The validation rules of a field; None when it has none."""
    options = field.GetOptions()
    return options.Extensions[validate_pb2.field] if options.HasExtension(validate_pb2.field) else None


@lru_cache(maxsize=5000)
def is_required(field: FieldDescriptor) -> bool:
    """Whether the proto says REQUIRED."""
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _time(maker: Maker, kind: Descriptor) -> Message:
    seconds = maker.random.choice(
        (0, 1, 1_800_000_000, -1, 253402300799, 253402300800, -62135596801, 2**63 - 1, -(2**63))
    )
    nanos = maker.random.choice((0, 1, 999_999_999, 1_000_000_000, -1, 2**31 - 1))
    made: Message = message_factory.GetMessageClass(kind)(seconds=seconds, nanos=nanos)
    return made


def _mask(maker: Maker, kind: Descriptor) -> Message:
    paths = [maker.random.choice(_PATHS) for _ in range(maker.random.randrange(4))]
    made: Message = message_factory.GetMessageClass(kind)(paths=paths)
    return made


def _struct(maker: Maker, kind: Descriptor) -> Message:
    made: Any = message_factory.GetMessageClass(kind)()
    for _ in range(maker.random.randrange(3)):
        made[maker.text("key")] = maker.random.choice(
            (None, True, 1.5, float("nan"), "x", {"a": {"b": [1, None]}}, [[[]]])
        )
    return made  # type: ignore[no-any-return]


_WELL_KNOWN: Final[dict[str, Callable[[Maker, Descriptor], Message]]] = {
    "google.protobuf.Timestamp": _time,
    "google.protobuf.Duration": _time,
    "google.protobuf.FieldMask": _mask,
    "google.protobuf.Struct": _struct,
}


def smaller(message: Message, still: Callable[[Message], bool]) -> Message:
    """The message with everything taken out that it does not need for `still` to hold."""
    current = message
    progress = True
    while progress:
        progress = False
        for field, _ in current.ListFields():
            candidate = type(current)()
            candidate.CopyFrom(current)
            candidate.ClearField(field.name)
            if still(candidate):
                current, progress = candidate, True
    return current


def decoded(kind: Descriptor, data: bytes) -> Message | None:
    """The message in the bytes, for people to read; None where there is none."""
    try:
        made: Message = message_factory.GetMessageClass(kind).FromString(data)
    except DecodeError:
        return None
    return made
