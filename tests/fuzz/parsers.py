"""Everything that reads bytes or text from outside: samples of what it takes, and the errors that it may raise."""

import asyncio
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from onnx import TensorProto, helper

from chassis.clock import SystemClock
from chassis.credentials import signing_request
from chassis.filtering import Kind, parse
from chassis.paging import Pager
from chassis.tokens import TokenVerifier
from lepton import names, tracing
from lepton.artifacts.location import Location
from lepton.audit import exported
from lepton.audit.record import Malformed, Outcome, Record
from lepton.data import canonical
from lepton.errors import InvalidArgument, OutOfRange, Unauthenticated
from lepton.inference.v1.inference_service_pb2 import ListModelsRequest
from lepton.models.formats import check_pt2, read_header, scan_onnx
from lepton.models.package import FORMAT as PACKAGE_FORMAT
from lepton.models.package import ModelPackage
from lepton.repository import FORMAT as REPOSITORY_FORMAT
from lepton.repository import Manifest
from lepton.train.checkpoints import manifest as checkpoints
from services.agent import rank_line
from services.agent.bundle import is_data, unpack
from services.auth.ca import SigningRequest
from services.inference.autoscaling import triton_metrics
from services.trainer.worker.spec import TrainingSpec
from tests.fuzz.messages import FILTERS, HOSTILE_TEXTS, NAMES, Maker
from tests.harness.memory_kv import MemoryKV
from tests.harness.pki import TokenSigner

Run = Callable[[bytes], object]
DIGEST: Final = "sha256:" + "d" * 64


@dataclass(frozen=True, slots=True)
class Parser:
    """One of them. `refuses` are the errors that say what is wrong with the input; any other is a finding."""

    name: str
    run: Run
    refuses: tuple[type[BaseException], ...]
    samples: Sequence[bytes]
    weight: int = 1
    """How often it comes in turn: those that write files come less often than the others."""


def parsers() -> list[Parser]:
    """All of them."""
    invalid = (InvalidArgument,)
    return [
        _tokens(),
        _page_tokens(),
        Parser("filter", _filter, invalid, [text.encode() for text in FILTERS], 6),
        Parser("names", _names, invalid, [text.encode() for text in NAMES], 6),
        Parser(
            "traceparent",
            lambda data: tracing.parse(_text(data)),
            (),
            [b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"],
            3,
        ),
        Parser(
            "artifact location",
            lambda data: Location.parse(_text(data)),
            invalid,
            [b"file:///a/b", b"s3://b/f?region=x#key_file=/k"],
            2,
        ),
        Parser("model package", ModelPackage.parse, invalid, [_json(PACKAGE)], 4),
        Parser("model repository", Manifest.parse, invalid, [_json(REPOSITORY), b'{"a": "%s"}' % DIGEST.encode()], 4),
        Parser("checkpoint", checkpoints.Manifest.parse, invalid, [_json(CHECKPOINT)], 4),
        Parser(
            "training spec",
            TrainingSpec.parse,
            invalid,
            [_json({"project": "p", "dataset": DIGEST, "recipe": "image_classifier"})],
            4,
        ),
        Parser("what a rank reports", _rank_line, invalid, [_json(line) for line in RANK_LINES], 4),
        Parser("audit record", Record.parse, (Malformed,), [_record()], 3),
        Parser(
            "audit export",
            lambda data: exported.read(io.StringIO(_text(data))),
            invalid,
            [b'{"key":{"key_id":"x","public_key":"eA=="}}\n{"end":{}}\n', b'{"end":{}}\n'],
            3,
        ),
        Parser("signing request", lambda data: SigningRequest.parse(_text(data)), invalid, [_csr()], 1),
        Parser(
            "triton's metrics",
            lambda data: triton_metrics.parse(_text(data)),
            (),
            [b'nv_inference_request_success{model="a",version="1"} 5\n'],
            3,
        ),
        Parser("safetensors header", _header, invalid, [_safetensors()], 4),
        Parser("dataset", canonical.parse, invalid, [_safetensors()], 2),
        Parser("ONNX file", lambda data: scan_onnx(memoryview(data), "m.onnx"), invalid, [_onnx()], 3),
        Parser("PyTorch archive", lambda data: check_pt2(io.BytesIO(data), "m.pt2"), invalid, [_zip()], 1),
        Parser("bundle", _bundle, invalid, [_tar(), _tar("w:gz")], 1),
    ]


def inputs_of(parser: Parser, random: Random) -> bytes:
    """An input for a parser: a sample with something done to it, a hostile text, or anything."""
    roll = random.random()
    if roll < 0.1:
        return random.randbytes(random.randrange(300))
    if roll < 0.2:
        return random.choice(HOSTILE_TEXTS).encode()
    sample = random.choice(parser.samples)
    if roll < 0.25:
        return sample
    if roll < 0.5 and sample[:1] in b"{[" and b"\n" not in sample:
        return json.dumps(_spoiled(json.loads(sample), random)).encode()
    return Maker(random).mutated(sample)


def _spoiled(value: Any, random: Random) -> Any:
    """JSON with one of its values replaced by another."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        return {**value, key: _spoiled(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        return [*value[:at], _spoiled(value[at], random), *value[at + 1 :]]
    return random.choice((
        None, True, 0, -1, 1e400, float("nan"), 2**70, "", "x" * 300, [], {}, [[]], {"a": None}, DIGEST, "../x",
        "\ud800", [1, "a"], {"": ""}, -0.5, "1",
    ))  # fmt: skip


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _tokens() -> Parser:
    signer = TokenSigner()
    verifier = TokenVerifier(SystemClock())
    verifier.replace(
        jwks=signer.jwks, issuer=signer.issuer, audience=signer.audience, revoked_tokens=frozenset(),
        revoked_sessions=frozenset(), revoked_principals={},
    )  # fmt: skip
    odd = {"exp": "1", "nbf": [], "iat": 1e400, "aud": ["lepton"], "projects": "x", "permissions": {}, "sub": 5}
    good = [signer.token("users/alice"), *(signer.token("users/alice", **{name: odd[name]}) for name in odd)]
    # What is signed and taken is no finding, whatever it holds: only the mutations are interesting.
    return Parser(
        "access token", lambda data: verifier.verify(_text(data)), (Unauthenticated,), [t.encode() for t in good], 6
    )


def _page_tokens() -> Parser:
    kv = MemoryKV()
    pager = Pager(kv, b"k" * 32)
    request = ListModelsRequest(parent="projects/acme")
    good = pager.token("/p/", request, "a")

    def run(data: bytes) -> object:
        asked = ListModelsRequest(parent="projects/acme", page_token=_text(data))
        return pager.position("/p/", asked)

    return Parser("page token", run, (InvalidArgument, OutOfRange), [good.encode()], 6)


FIELDS: Final = {
    "name": Kind.TEXT, "x": Kind.TEXT, "a": Kind.NUMBER, "count": Kind.NUMBER, "ready": Kind.FLAG, "state": Kind.WORD,
    "create_time": Kind.TIME, "pools": Kind.LIST, "labels": Kind.TEXT_MAP, "tags": Kind.TEXT_MAP,
    "metrics": Kind.NUMBER_MAP,
}  # fmt: skip
VALUES: Final[Sequence[dict[str, Any]]] = (
    {},
    {"name": "x", "count": 1.0, "labels": {"team": "x"}, "pools": ["a"], "state": "A"},
)


def _filter(data: bytes) -> object:
    found = parse(_text(data), FIELDS)
    return [found(values) for values in VALUES]


_KINDS: Final = tuple(kind for kind in vars(names).values() if isinstance(kind, type) and "pattern" in vars(kind))


def _names(data: bytes) -> object:
    text, parsed = _text(data), 0
    for kind in _KINDS:
        try:
            found = kind.parse(text)  # type: ignore[attr-defined]
        except InvalidArgument:
            continue
        if str(found) != text or ".." in text or "\0" in text or not text.isascii():
            raise AssertionError(f"{text!r} is taken for {found!r}")
        parsed += 1
    names.not_found(text)
    names.project_of(text)
    if not parsed:
        raise InvalidArgument("INVALID_NAME")
    return parsed


def _rank_line(data: bytes) -> object:
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):  # whoever reads the pipe has seen to that
        raise InvalidArgument("INVALID_FIELD")
    return rank_line.read(line)


def _header(data: bytes) -> object:
    return read_header(data, len(data), "w.safetensors")


def _bundle(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        archive, target = Path(folder, "archive"), Path(folder, "target")
        archive.write_bytes(data)
        target.mkdir()
        is_data(archive)
        found = unpack(archive, target)
        if {path.name for path in Path(folder).iterdir()} != {"archive", "target"}:
            raise AssertionError("something lies outside of the folder")
        return found


def _tar(mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name in ("train.py", "folder/data.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "train.py"
        archive.addfile(link)
    return buffer.getvalue().rstrip(b"\0") + bytes(1024) if mode == "w" else buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (("m/archive_format", b"pt2"), ("m/version", b"1"), ("m/models/model.json", b"{}")):
            archive.writestr(name, content)
    return buffer.getvalue()


def _safetensors() -> bytes:
    header = _json({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"kind": "images"}})
    return len(header).to_bytes(8, "little") + header + bytes(8)


def _record() -> bytes:
    record = Record(
        sequence=1,
        time_ns=1,
        outcome=Outcome.SUCCEEDED,
        service="auth",
        action="SignIn",
        actor="users/alice",
        resource="x",
    )
    return record.canonical()


def _onnx() -> bytes:
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found: bytes = model.SerializeToString()
    return found


def _csr() -> bytes:
    return signing_request(("localhost", "10.0.0.1"))[1]


PACKAGE: Final = {
    "format": PACKAGE_FORMAT, "architecture": None, "files": {"model.safetensors": DIGEST},
    "signature": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": [{"name": "y",
    "datatype": "FP32", "shape": [-1]}]},
    "metrics": {"accuracy": 0.9}, "lineage": {"job": "projects/p/jobs/j"},
}  # fmt: skip
REPOSITORY: Final = {
    "format": REPOSITORY_FORMAT, "variants": [{"engine": "", "key": "", "requires": {},
    "files": {"config.pbtxt": DIGEST}}],
}  # fmt: skip
CHECKPOINT: Final = {
    "format": checkpoints.FORMAT, "step": 1, "epoch": 0, "samples": 5, "world_size": 2, "config_digest": DIGEST,
    "files": [{"name": "rank-0.safetensors", "digest": DIGEST, "size": 10}], "tensors": {},
}  # fmt: skip
RANK_LINES: Final = (
    {"kind": "output", "name": "x", "digest": DIGEST}, {"kind": "metrics", "step": 1, "epoch": 0,
    "metrics": {"loss": 0.5}},
    {"kind": "pace", "step": 1}, {"kind": "state", "phase": "x"}, {"kind": "checkpoint_failed", "why": "x"},
    {"kind": "checkpoint", "step": 1, "manifest": DIGEST, "metrics": {"loss": 1}, "id": "a"},
    {"kind": "package", "digest": DIGEST, "metrics": {}, "id": "a"},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Broken:
    """An input that made a parser fail in another way than it may."""

    parser: str
    data: bytes
    error: BaseException

    def __str__(self) -> str:
        return (
            f"{self.parser}: {type(self.error).__name__}: {str(self.error)[:200]}\n  bytes.fromhex({self.data.hex()!r})"
        )


def tried(parser: Parser, data: bytes) -> Broken | None:
    """What is wrong when it reads these bytes."""
    try:
        parser.run(data)
    except parser.refuses:
        return None
    except Exception as error:
        return Broken(parser.name, data, error)
    return None


async def broken(inputs: int, seed: int, which: Sequence[Parser] | None = None) -> list[Broken]:
    """So many inputs, in turn for all parsers; one finding of each kind."""
    random = Random(seed)
    turns = [each for each in which or parsers() for _ in range(each.weight)]
    found: dict[tuple[str, str], Broken] = {}
    for at in range(inputs):
        parser = turns[at % len(turns)]
        problem = tried(parser, inputs_of(parser, random))
        if problem is not None:
            found.setdefault((problem.parser, type(problem.error).__name__), problem)
        if at % 1000 == 0:
            await asyncio.sleep(0)
    return list(found.values())
