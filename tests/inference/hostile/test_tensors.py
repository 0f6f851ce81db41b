"""Tensors that are not what they say: shapes, types, sizes, and two forms of the data at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.inference.hostile.refusals import assert_clean
from tests.inference.hostile.world import ELASTIC, GOOD, World, good_request, message

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]
SHAPES = [
    *([], [1], [1, 1, 8], [1, 1, 8, 9], [1, 1, 8, 8, 1], [64], [1] * 2000),
    *([-1, 1, 8, 8], [1, -1, 8, 8], [1, 1, -8, -8], [0, 1, 8, 8], [-(1 << 63), 1, 8, 8]),
    *(
        [1 << 32, 1, 8, 8],
        [33, 1, 8, 8],
        [1 << 62, 1, 8, 8],
        [1 << 31, 1 << 31, 8, 8],
        [(1 << 63) - 1] * 4,
        [1, 1, 8, 1 << 40],
    ),
]
KINDS = ["FP16", "FP64", "INT32", "BYTES", "BF16", "BOOL", "", "NOPE", "fp32", "FP32 ", "x" * 100_000]


def spoiled(change: Callable[[Any], object]) -> Any:
    request = good_request()
    change(request)
    return request


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape)[:30])
async def test_a_wrong_shape_is_refused(unharmed: World, shape: list[int]) -> None:
    request = good_request()
    request.inputs[0].ClearField("shape")
    request.inputs[0].shape.extend(shape)
    assert_clean(await unharmed.call(request.SerializeToString()), "INVALID_ARGUMENT")


async def test_rows_beyond_what_triton_counts_add_nothing(unharmed: World) -> None:
    """It counts them modulo 2^32: what has the bytes of one row is one row."""
    request = good_request()
    request.inputs[0].shape[0] = (1 << 32) + 1
    assert_clean(await unharmed.call(request.SerializeToString()), "OK", "INVALID_ARGUMENT")
    request.raw_input_contents[0] *= 2
    assert_clean(await unharmed.call(request.SerializeToString()), "INVALID_ARGUMENT")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[:8] or "none")
async def test_a_wrong_type_is_refused(unharmed: World, kind: str) -> None:
    request = spoiled(lambda given: setattr(given.inputs[0], "datatype", kind))
    assert_clean(await unharmed.call(request.SerializeToString()), "INVALID_ARGUMENT")


DATA: dict[str, Callable[[Any], object]] = {
    "too few bytes": lambda given: given.raw_input_contents.__setitem__(0, b"\0" * 255),
    "too many bytes": lambda given: given.raw_input_contents.__setitem__(0, b"\0" * 257),
    "no bytes": lambda given: given.raw_input_contents.__setitem__(0, b""),
    "no data": lambda given: given.ClearField("raw_input_contents"),
    "raw and typed": lambda given: given.inputs[0].contents.fp32_contents.extend([1.0] * 64),
    "raw and the wrong typed": lambda given: given.inputs[0].contents.bytes_contents.extend([b"x"] * 64),
    "no inputs": lambda given: given.ClearField("inputs"),
    "an input twice": lambda given: (
        given.inputs.add().CopyFrom(given.inputs[0]),
        given.raw_input_contents.append(given.raw_input_contents[0]),
    ),
    "an unknown input": lambda given: setattr(given.inputs[0], "name", "../../y"),
    "20,000 inputs": lambda given: [
        given.inputs.add(name=f"i{at}", datatype="FP32", shape=[1]) for at in range(20_000)
    ],
    "an unknown output": lambda given: given.outputs.add(name="/etc/passwd"),
    "a version that is none": lambda given: setattr(given, "model_version", "../1"),
    "a version of 20 digits": lambda given: setattr(given, "model_version", "9" * 20),
    "a version below nothing": lambda given: setattr(given, "model_version", "-1"),
    "memory that is not shared": lambda given: (
        given.inputs[0].parameters["shared_memory_region"].__setattr__("string_param", "../../dev/shm/x")
    ),
    "outputs into memory": lambda given: (
        given.outputs.add(name="logits").parameters["shared_memory_region"].__setattr__("string_param", "out")
    ),
}


@pytest.mark.parametrize("change", DATA.values(), ids=DATA)
async def test_data_that_does_not_fit_is_refused(unharmed: World, change: Callable[[Any], object]) -> None:
    seen = await unharmed.call(spoiled(change).SerializeToString())
    assert_clean(seen, "INVALID_ARGUMENT", "NOT_FOUND")


@pytest.mark.parametrize("part", ["model_version", "input", "output"])
async def test_a_name_of_a_megabyte_is_not_repeated_to_the_caller(unharmed: World, part: str) -> None:
    """Triton's error repeats it, and would be larger than an answer's headers may be."""
    request, name = good_request(), "x" * (1 << 20)
    if part == "input":
        request.inputs[0].name = name
    elif part == "output":
        request.outputs.add(name=name)
    else:
        request.model_version = name
    seen = await unharmed.call(request.SerializeToString())
    assert_clean(seen, "INVALID_ARGUMENT")
    assert seen.reason == "NAME_TOO_LONG"


async def test_texts_that_lie_about_their_length_are_refused(unharmed: World) -> None:
    for shape, raw in (([1, 4], b"\xff\xff\xff\xffabc"), ([1, 1 << 40], b""), ([1, 1], b"\4\0\0\0abc"), ([1, 2], b"")):
        request = service_pb2.ModelInferRequest(model_name="demo.simple-identity", raw_input_contents=[raw])
        request.inputs.add(name="INPUT0", datatype="BYTES", shape=shape)
        assert_clean(await unharmed.call(request.SerializeToString()), "INVALID_ARGUMENT")


@pytest.mark.parametrize("width", [0, 1, 63, 65, 100_000])
async def test_what_only_the_runtime_finds_wrong_is_refused_without_its_insides(unharmed: World, width: int) -> None:
    request = message(ELASTIC, "x", np.zeros((1, width), np.float32), "FP32")
    assert_clean(await unharmed.call(request.SerializeToString()), "INVALID_ARGUMENT", "INTERNAL")


async def test_a_bad_request_does_not_fail_those_that_it_was_joined_with(unharmed: World) -> None:
    """Requests of equal shapes run as one batch; one of other shapes, sent with them, is refused alone."""
    good = message(ELASTIC, "x", np.ones((1, 64), np.float32), "FP32").SerializeToString()
    bad = message(ELASTIC, "x", np.ones((1, 65), np.float32), "FP32").SerializeToString()
    ended = await asyncio.gather(*(unharmed.call(bad if at % 4 == 0 else good) for at in range(64)))
    assert [one.code for one in ended] == ["INVALID_ARGUMENT" if at % 4 == 0 else "OK" for at in range(64)]


async def test_not_a_number_is_answered(unharmed: World) -> None:
    x = np.full((1, 1, 8, 8), np.nan, np.float32)
    assert (await unharmed.call(message(GOOD, "x", x, "FP32").SerializeToString())).code == "OK"


async def test_a_message_of_the_largest_size_is_judged_and_a_larger_one_is_not_read(unharmed: World) -> None:
    for mebibytes, code in ((60, "INVALID_ARGUMENT"), (70, "RESOURCE_EXHAUSTED")):
        request = good_request()
        request.raw_input_contents[0] = bytes(mebibytes << 20)
        assert_clean(await unharmed.call(request.SerializeToString()), code)


PARAMETERS: dict[str, tuple[str, Any]] = {
    "a timeout in the past": ("timeout", -1),
    "a priority of no end": ("priority", 1 << 62),
    "a sequence of 200 kB": ("sequence_id", "x" * 200_000),
    "a sequence of a model without": ("sequence_id", 7),
    "one of Triton's own": ("triton_enable_empty_final_response", True),
    "one of Triton's own, of a wrong type": ("triton_enable_empty_final_response", "x"),
    "one that nobody knows": ("../../x", "y"),
}


@pytest.mark.parametrize(("name", "value"), PARAMETERS.values(), ids=PARAMETERS)
async def test_a_parameter_harms_nobody(unharmed: World, name: str, value: Any) -> None:
    request = good_request()
    field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
    setattr(request.parameters[name], field, value)
    assert_clean(await unharmed.call(request.SerializeToString()), "OK", "INVALID_ARGUMENT", "UNIMPLEMENTED")


async def test_a_sequence_that_never_began_and_a_stream_s_model_are_refused(unharmed: World) -> None:
    request = message("demo.simple-sequence", "INPUT", np.zeros((1, 1), np.int32), "INT32")
    assert_clean(await unharmed.call(request.SerializeToString()), "INVALID_ARGUMENT")
    request.parameters["sequence_id"].int64_param = 5
    assert_clean(await unharmed.call(request.SerializeToString()), "INVALID_ARGUMENT")
    decoupled = service_pb2.ModelInferRequest(model_name="demo.repeat-int32")
    assert_clean(await unharmed.call(decoupled.SerializeToString()), "UNIMPLEMENTED", "INVALID_ARGUMENT")
