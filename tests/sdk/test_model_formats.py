"""Model files are known by their bytes, looked at with bounded work, and refused before a library could run them."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save

from lepton.errors import InvalidArgument
from lepton.models.formats import (
    Kind,
    Limits,
    check_pt2,
    kind_of,
    read_header,
    refuse_pickle,
    scan_onnx,
    without_pickles,
)
from lepton.models.formats.pt2_program import check_program, cleaned
from lepton.models.formats.safetensors_header import header_bytes
from lepton.models.formats.size_expression import is_arithmetic

SMALL = Limits(nodes=1000, tensors=1000, depth=8)


def model(**options: Any) -> onnx.ModelProto:
    """y = relu(x + w)."""
    w = helper.make_tensor("w", TensorProto.FLOAT, [4], np.zeros(4, np.float32).tobytes(), raw=True)
    nodes = [helper.make_node("Add", ["x", "w"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [w],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **options)


def scan(made: onnx.ModelProto, **options: Any) -> Any:
    return scan_onnx(memoryview(made.SerializeToString()), "m.onnx", limits=SMALL, **options)


class Bomb:
    def __reduce__(self) -> Any:
        raise AssertionError("it was pickled by the test, and never unpickled")


def pickles() -> list[bytes]:
    return [pickle.dumps({"w": np.zeros(3)}, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


@pytest.mark.parametrize("data", pickles(), ids=lambda data: f"{data[:4]!r}")
def test_every_protocol_of_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        refuse_pickle(data[:4096], "model.bin")
    assert refused.value.reason == "MODEL_FILE_PICKLED"
    assert "safetensors" in refused.value.message
    assert "torch.onnx.export" in refused.value.message


def test_other_kinds_are_known_and_not_mistaken() -> None:
    zipped = io.BytesIO()
    zipfile.ZipFile(zipped, "w").close()
    assert kind_of(save({"w": np.zeros(3)})) is Kind.SAFETENSORS
    assert kind_of(model().SerializeToString()) is Kind.ONNX
    assert kind_of(zipped.getvalue()) is Kind.ZIP
    assert kind_of(b'{"name": "x"}') is Kind.JSON
    assert kind_of(b"\x89HDF\r\n\x1a\n....") is Kind.HDF5
    assert kind_of(b"") is Kind.OTHER
    for compressed in (b"\x1f\x8b\x08\0", b"\x78\x9c..", b"\x28\xb5\x2f\xfd"):
        with pytest.raises(InvalidArgument, match="MODEL_FILE_PICKLED"):
            refuse_pickle(compressed, "model.joblib")
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidArgument, match="MODEL_FILE_PICKLED"):
        refuse_pickle(objects.getvalue(), "x.npy")


# safetensors


def test_a_header_says_what_is_there() -> None:
    data = save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.int64)})
    found = read_header(data, len(data), "w.safetensors")
    assert {name: (each.dtype, each.shape) for name, each in found.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("I64", (5,)),
    }


def header(document: Any, data: bytes = b"") -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        header(b"[]"),
        header(b"{"),
        header({"a": {**F32, "dtype": "OBJ"}}, b"1234"),
        header({"a": {**F32, "shape": [1 << 50]}}, b"1234"),
        header({"a": {**F32, "shape": [-1]}}, b"1234"),
        header({"a": {**F32, "data_offsets": [0, 400]}}, b"1234"),
        header({"a": {**F32, "data_offsets": [4, 0]}}, b"1234"),
        header({"a": F32, "b": F32}, b"12341234"),
        header({"a": F32}, b"1234 and a hidden tail"),
        header({"a": {"dtype": "F32"}}, b""),
        header({"a": 3}),
        header({"a": {**F32, "shape": [True]}}, b"1234"),
        header(b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), b"1234"),
        header({"a": {**F32, "shape": [1] * 100}}, b"1234"),
        header({"a" * 10_000: F32}, b"1234"),
        header(b"[" * 100_000),
    ],
)
def test_a_header_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="MODEL_FILE_INVALID"):
        read_header(data, len(data), "w.safetensors")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30), st.binary(min_size=1, max_size=8))
def test_no_damage_to_a_header_gets_another_error(at: int, damage: bytes) -> None:
    data = bytearray(save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.int64)}))
    at %= len(data)
    data[at : at + len(damage)] = damage
    try:
        size = header_bytes(bytes(data), "w")
        read_header(bytes(data[:size]), len(data), "w")
    except InvalidArgument as error:
        assert error.reason == "MODEL_FILE_INVALID"  # noqa: PT017 (damage to the numbers alone is not seen)


# ONNX


def test_a_plain_file_is_looked_through() -> None:
    found = scan(model())
    assert (found.nodes, found.tensors, found.elements, found.opsets) == (2, 1, 4, {"": 20})
    assert found.operators == {"Add": 1, "Relu": 1}


def external(location: str, **more: str) -> onnx.ModelProto:
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return made


def hidden_external() -> onnx.ModelProto:
    made = external("x.bin")
    made.graph.initializer[0].ClearField("data_location")
    return made


def in_a_subgraph() -> onnx.ModelProto:
    made = model()
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "b", [], [], [external("/etc/passwd").graph.initializer[0]]
    )
    made.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    return made


def of_domain(domain: str, name: str = "Evil") -> onnx.ModelProto:
    made = model()
    made.graph.node.append(helper.make_node(name, ["y"], ["z"], domain=domain))
    return made


def with_dims(*dims: int) -> onnx.ModelProto:
    made = model()
    made.graph.initializer[0].ClearField("dims")
    made.graph.initializer[0].dims.extend(dims)
    return made


def functions(bodies: dict[str, list[str]]) -> onnx.ModelProto:
    made = of_domain("mine", "f0")
    for name, calls in bodies.items():
        nodes = [helper.make_node(call, ["x"], ["y"], domain="mine" if call[1:].isdecimal() else "") for call in calls]
        made.functions.append(helper.make_function("mine", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 20)]))
    return made


def deep() -> onnx.ModelProto:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=graph)], "g", [], [])
    made = model()
    made.graph.node.extend(graph.node)
    return made


def versions(ir: int, opset: int) -> onnx.ModelProto:
    made = model()
    made.ir_version = ir
    made.opset_import[0].version = opset
    return made


def declared(size: int) -> onnx.ModelProto:
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    return made


def training() -> onnx.ModelProto:
    made = model()
    made.training_info.add()
    return made


def replaced() -> onnx.ModelProto:
    made = model()
    made.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [], [helper.make_opsetid("", 20)]))
    return made


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda: external("../../etc/passwd"), "lies outside"),
        (lambda: external("/etc/passwd"), "lies outside"),
        (hidden_external, "lies outside"),
        (in_a_subgraph, "lies outside"),
        (lambda: of_domain("com.evil"), "whose code is not here"),
        (lambda: of_domain("ai.onnx.training"), "not here"),
        (lambda: of_domain("com.microsoft", "EPContext"), "opens files"),
        (lambda: with_dims(1 << 30, 1 << 30), "holds 16 bytes"),
        (lambda: with_dims(-4), "dimension of -4"),
        (lambda: with_dims(*[1] * 40), "16 at the most"),
        (lambda: with_dims(1 << 62), "dimension"),
        (lambda: functions({"f0": ["f1"], "f1": ["f0"]}), "calls itself"),
        (lambda: functions({"f0": ["f0"]}), "calls itself"),
        (lambda: functions({f"f{n}": [f"f{n + 1}"] * 10 for n in range(7)} | {"f7": ["Relu"]}), "written out"),
        (lambda: functions({f"f{n}": [f"f{n + 1}"] for n in range(30)} | {"f30": ["Relu"]}), "deep"),
        (deep, "deep"),
        (lambda: versions(99, 20), "IR version"),
        (lambda: versions(1, 20), "IR version"),
        (lambda: versions(10, 99), "operator set"),
        (lambda: versions(10, 1), "operator set"),
        (lambda: declared(1 << 62), "dimension"),
        (training, "training steps"),
        (replaced, "takes the place"),
    ],
)
def test_a_poisoned_file_is_refused(made: Callable[[], onnx.ModelProto], problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        scan(made())
    assert refused.value.reason == "MODEL_FILE_INVALID"
    assert problem in refused.value.metadata["problem"]


def test_functions_that_end_and_the_runtimes_own_operators_are_let_through() -> None:
    assert scan(functions({"f0": ["f1", "f1"], "f1": ["Relu", "Relu"]})).nodes == 6
    assert scan(of_domain("com.microsoft", "FusedGemm")).operators["com.microsoft.FusedGemm"] == 1


def test_too_many_nodes_and_tensors_are_refused() -> None:
    made = model()
    made.graph.node.extend([made.graph.node[0]] * 1001)
    with pytest.raises(InvalidArgument, match="nodes"):
        scan(made)
    made = model()
    made.graph.initializer.extend([made.graph.initializer[0]] * 1001)
    with pytest.raises(InvalidArgument, match="tensors"):
        scan(made)


def test_external_data_is_listed_where_it_is_allowed() -> None:
    (found,) = scan(external("w.bin", offset="8", length="16"), is_external_allowed=True).external
    assert (found.location, found.offset, found.length) == ("w.bin", 8, 16)
    with pytest.raises(InvalidArgument, match="MODEL_FILE_INVALID"):
        scan(external("w.bin", offset="-8"), is_external_allowed=True)
    with pytest.raises(InvalidArgument, match="MODEL_FILE_INVALID"):
        scan(external("w.bin", offset="x"), is_external_allowed=True)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_no_damage_to_an_onnx_file_gets_another_error(data: st.DataObject) -> None:
    content = bytearray(functions({"f0": ["f1", "f1"], "f1": ["Relu"]}).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        scan_onnx(memoryview(bytes(content)), "m.onnx", limits=SMALL)
    except InvalidArgument as error:
        assert error.reason == "MODEL_FILE_INVALID"  # noqa: PT017 (damage to weights or names alone is not seen)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_onnx_file_or_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="MODEL_FILE_INVALID"):
        scan_onnx(memoryview(data), "m.onnx")


# pt2

GRAPH: dict[str, Any] = {
    "graph_module": {
        "graph": {
            "nodes": [{"target": "torch.ops.aten.relu.default", "name": "relu", "metadata": {"stack_trace": "x"}}]
        },
        "module_call_graph": [
            {
                "fqn": "",
                "signature": {"in_spec": '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]'},
            }
        ],
    },
    "guards_code": ["L['x'].size()[0] <= 64"],
    "sizes": [{"expr_str": "Mul(Integer(2), Symbol('s31', positive=True, integer=True))"}],
}
WEIGHTS: dict[str, Any] = {"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {}}}}


def archive(**entries: Any) -> io.BytesIO:
    """An archive as torch.export.save lays it out; entries replace or add to it, None leaves one out."""
    content: dict[str, Any] = {
        "archive_format": b"pt2",
        "models/model.json": GRAPH,
        "data/weights/weight_0": b"\x80\x04" + b"0" * 30,  # numbers may look like a pickle
        "data/weights/model_weights_config.json": WEIGHTS,
        "data/sample_inputs/model.pt": pickle.dumps(1),
        **entries,
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as zipped:
        for name, value in content.items():
            if value is not None:
                zipped.writestr(f"m/{name}", value if isinstance(value, bytes) else json.dumps(value))
    made.seek(0)
    return made


def changed(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(GRAPH)), **changes}


def node(target: str) -> dict[str, Any]:
    return changed(graph_module={"graph": {"nodes": [{"target": target, "name": "n"}]}})


def test_samples_guards_and_metadata_are_left_out_and_what_is_left_passes() -> None:
    clean = io.BytesIO()
    assert without_pickles(archive(), "m.pt2", clean) == ["data/sample_inputs/model.pt"]
    check_pt2(clean, "m.pt2")
    with zipfile.ZipFile(clean) as zipped:
        program = json.loads(zipped.read("m/models/model.json"))
        assert zipped.read("m/data/sample_inputs/model.pt") == b""
        assert zipped.read("m/data/weights/weight_0") == b"\x80\x04" + b"0" * 30
    assert program["guards_code"] == []
    assert program["graph_module"]["graph"]["nodes"][0]["metadata"] == {}
    with pytest.raises(InvalidArgument, match="MODEL_FILE_PICKLED"):
        check_pt2(archive(), "m.pt2")


PICKLED = "MODEL_FILE_PICKLED"
INVALID = "MODEL_FILE_INVALID"
CUSTOM = {"config": {"w": {**WEIGHTS["config"]["w"], "path_name": "custom_obj_0"}}}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"data.pkl": b"x"}, PICKLED),
        ({"data/constants/custom_obj_0": b"x"}, PICKLED),
        ({"extra/x": pickle.dumps(1)}, PICKLED),
        ({"data/constants/opaque_obj_0": b"x"}, PICKLED),
        ({"data/constants/model.pt": b"x"}, PICKLED),
        (
            {
                "data/weights/model_weights_config.json": {
                    "config": {"w": {**WEIGHTS["config"]["w"], "use_pickle": True}}
                }
            },
            PICKLED,
        ),
        ({"data/weights/model_weights_config.json": CUSTOM}, PICKLED),
        ({"extra/weights": b"PK\x03\x04....."}, PICKLED),
        ({"data/weights/model_weights_config.json": {"config": {"w": {"path_name": "../../x"}}}}, INVALID),
        ({"data/weights/model_weights_config.json": b"[]"}, INVALID),
        ({"../evil": b"x"}, INVALID),
        ({"a\\..\\b": b"x"}, INVALID),
        ({"data/aotinductor/model/x.so": b"\x7fELF"}, INVALID),
        ({"models/model.json": None}, INVALID),
        ({"models/other.json": GRAPH}, INVALID),
        ({"archive_format": None}, INVALID),
        ({"models/model.json": b"{"}, INVALID),
        ({"models/model.json": b"[" * 100_000}, INVALID),
        ({"models/model.json": node("torch.load")}, INVALID),
        ({"models/model.json": node("torch.ops.aten.from_file.default")}, INVALID),
        ({"models/model.json": node("os.system")}, INVALID),
        ({"models/model.json": node("torch.ops.evil.op.default")}, INVALID),
        ({"models/model.json": node("_operator.call")}, INVALID),
        ({"models/model.json": changed(sizes=[{"expr_str": "__import__('os').system('id')"}])}, INVALID),
        ({"models/model.json": changed(x={"as_custom_obj": {"name": "o"}})}, INVALID),
        (
            {
                "models/model.json": changed(
                    x={"in_spec": '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'}
                )
            },
            INVALID,
        ),
        ({"models/model.json": changed(x={"name": "a; import os"})}, INVALID),
    ],
)
def test_whatever_torch_would_run_is_refused(entries: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        without_pickles(archive(**entries), "m.pt2", io.BytesIO())
    assert refused.value.reason == reason


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("m/data/weights/weight_0", b"\0" * (32 << 20))
    with pytest.raises(InvalidArgument, match="unpacks"):
        check_pt2(made, "m.pt2")
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as zipped:
        for at in range(60):
            zipped.writestr(f"m/{at}", b"")
    with pytest.raises(InvalidArgument, match="entries"):
        check_pt2(many, "m.pt2", limits=Limits(entries=50))


def test_guards_and_metadata_that_were_not_left_out_are_refused() -> None:
    check_program(cleaned(json.dumps(GRAPH).encode(), "m"), "m")
    for left in (changed(graph_module={}), changed(sizes=[], graph_module={"graph": {}})):
        with pytest.raises(InvalidArgument, match="guards_code"):
            check_program(json.dumps(left).encode(), "m")


@pytest.mark.parametrize(
    ("text", "is_let_through"),
    [
        ("s31", True),
        ("2*s31 + 1", True),
        ("Mul(Symbol('s2', positive=True, integer=True), Integer(3))", True),
        ("PowByNatural(s0, 2)", True),
        ("(s0**2)//4", True),
        ("Max(1, u0)", True),
        ("s0 <= 64", True),
        ("-9223372036854775807", True),
        ("os", False),
        ("().__class__", False),
        ("s0.__class__", False),
        ("Symbol('os')", False),
        ("Symbol('s0', evil=1)", False),
        ("eval('1')", False),
        ("lambda: 1", False),
        ("[s0]", False),
        ("'text'", False),
        ("9**9**9", False),
        ("Pow(9, s0)", False),
        ("Pow(Pow(9, 9), 9)", False),
        ("1" * 5000, False),
        ("s0 if s1 else s2", False),
        ("f(s0)", False),
        ("", False),
        ("10" * 30, False),
        ("Max(*s0)", False),
        ("(" * 500 + "s0" + ")" * 500, False),
        ("__import__('os').system('id')", False),
        ("s0; s1", False),
    ],
)
def test_sizes_are_arithmetic_and_nothing_else(text: str, is_let_through: bool) -> None:
    assert is_arithmetic(text) is is_let_through
