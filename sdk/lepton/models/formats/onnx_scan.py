"""An ONNX file looked through before any library parses it: what it imports, what it names outside itself, how large.

Refused are data outside the file, operators of unknown domains, operator sets and IR versions that the runtimes do not
run, functions that call themselves or that multiply beyond measure, and tensors whose shape is not in the file.
Field numbers: onnx/onnx-ml.proto3 (IR version 14).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lepton.models.formats.limits import LIMITS, Limits, invalid
from lepton.models.formats.protobuf_wire import Value, fields, text, varints

STANDARD: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
RUNTIME: Final = "com.microsoft"
"""ONNX Runtime's own operators, of which those that open files are refused."""
_OPENS_FILES: Final = frozenset({"EPContext"})

_Call = tuple[str, str, str]  # domain, operator, overload


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """A tensor whose bytes lie in another file."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxScan:
    """What was found in an ONNX file."""

    ir_version: int
    opsets: Mapping[str, int]
    nodes: int
    """Functions written out."""
    tensors: int
    elements: int
    """Numbers in all tensors."""
    operators: Mapping[str, int]
    producer: str
    external: tuple[External, ...] = ()


@dataclass(slots=True)
class _Body:
    """A graph or a function: its own operators, and how often it calls each."""

    calls: Counter[_Call] = field(default_factory=Counter)


def scan_onnx(data: memoryview, file: str, *, limits: Limits = LIMITS, is_external_allowed: bool = False) -> OnnxScan:
    """Looks through a file. Raises InvalidArgument (MODEL_FILE_INVALID)."""
    try:
        if len(data) > limits.onnx_bytes:
            raise ValueError(f"it is {len(data)} bytes, {limits.onnx_bytes} at the most")
        return _Scanner(limits, is_external_allowed).model(data)
    except (ValueError, RecursionError) as error:
        raise invalid(file, "ONNX file", str(error)[:300]) from error


class _Scanner:
    def __init__(self, limits: Limits, is_external_allowed: bool) -> None:
        self._limits, self._is_external_allowed = limits, is_external_allowed
        self._nodes = self._tensors = self._elements = 0
        self._external: list[External] = []

    def model(self, data: memoryview) -> OnnxScan:
        ir_version, opsets, producer, graphs = 0, dict[str, int](), "", 0
        main, functions = _Body(), dict[_Call, _Body]()
        for number, value in fields(data):
            if number == 1:
                ir_version = _number(value)
            elif number == 2:
                producer = text(value, most=self._limits.name_bytes)
            elif number == 8:
                domain, version = self._opset(value)
                opsets[domain] = version
            elif number == 7:
                graphs += 1
                self._graph(_bytes(value), main, 0)
            elif number == 20:
                raise ValueError("it holds training steps; export the model for inference")
            elif number == 25:
                self._function(_bytes(value), functions)
        if graphs != 1:
            raise ValueError("it holds no graph" if graphs == 0 else "it holds several graphs")
        self._check_versions(ir_version, opsets)
        operators = self._written_out(main, functions)
        self._check_domains(operators)
        return OnnxScan(
            ir_version=ir_version,
            opsets=opsets,
            nodes=sum(operators.values()),
            tensors=self._tensors,
            elements=self._elements,
            operators={f"{domain}.{name}" if domain else name: n for (domain, name, _), n in operators.items()},
            producer=producer,
            external=tuple(self._external),
        )

    def _check_versions(self, ir_version: int, opsets: Mapping[str, int]) -> None:
        lowest, highest = self._limits.ir_version
        if not lowest <= ir_version <= highest:
            raise ValueError(f"its IR version is {ir_version}, {lowest} to {highest} are supported")
        opset = opsets.get("", opsets.get("ai.onnx"))
        first, last = self._limits.opset
        if opset is None or not first <= opset <= last:
            raise ValueError(f"its operator set is {opset or 'not stated'}, {first} to {last} are supported")

    def _check_domains(self, operators: Mapping[_Call, int]) -> None:
        for domain, name, _ in operators:
            if domain not in STANDARD and domain != RUNTIME:
                raise ValueError(f"the operator {name!r} is of the domain {domain!r}, whose code is not here")
            if name in _OPENS_FILES:
                raise ValueError(f"the operator {name!r} opens files of its own")

    def _written_out(self, main: _Body, functions: Mapping[_Call, _Body]) -> Counter[_Call]:
        """The operators that are left when every function is replaced by its body, as a runtime does."""
        done: dict[_Call, Counter[_Call]] = {}

        def body(of: _Body, path: tuple[_Call, ...]) -> Counter[_Call]:
            if len(path) > self._limits.depth:
                raise ValueError(f"its functions call one another more than {self._limits.depth} deep")
            total: Counter[_Call] = Counter()
            for call, times in of.calls.items():
                if call not in functions:
                    total[call] += times
                    continue
                if call in path:
                    raise ValueError(f"the function {call[1]!r} calls itself")
                if call not in done:
                    done[call] = body(functions[call], (*path, call))
                for operator, count in done[call].items():
                    total[operator] += times * count
            if total.total() > self._limits.nodes:
                raise ValueError(f"written out it has more than {self._limits.nodes} nodes")
            return total

        for name, each in functions.items():  # those that nobody calls, too: a library may look at them
            body(each, (name,))
        return body(main, ())

    def _opset(self, value: Value) -> tuple[str, int]:
        domain, version = "", 0
        for number, part in fields(_bytes(value)):
            if number == 1:
                domain = text(part, most=self._limits.name_bytes)
            elif number == 2:
                version = _number(part)
        return domain, version

    def _function(self, data: memoryview, functions: dict[_Call, _Body]) -> None:
        name = domain = overload = ""
        found = _Body()
        for number, value in fields(data):
            if number == 1:
                name = text(value, most=self._limits.name_bytes)
            elif number == 10:
                domain = text(value, most=self._limits.name_bytes)
            elif number == 13:
                overload = text(value, most=self._limits.name_bytes)
            elif number == 7:
                self._node(_bytes(value), found, 0)
            elif number == 11:
                self._attribute(_bytes(value), found, 0)
        if domain in STANDARD or domain == RUNTIME:
            raise ValueError(f"the function {name!r} takes the place of an operator of the domain {domain!r}")
        functions[domain, name, overload] = found

    def _graph(self, data: memoryview, found: _Body, depth: int) -> None:
        if depth > self._limits.depth:
            raise ValueError(f"its graphs lie more than {self._limits.depth} deep in one another")
        for number, value in fields(data):
            if number == 1:
                self._node(_bytes(value), found, depth)
            elif number == 5:
                self._tensor(_bytes(value))
            elif number == 15:
                self._sparse(_bytes(value))
            elif number in (11, 12, 13):
                self._value_info(_bytes(value))

    def _node(self, data: memoryview, found: _Body, depth: int) -> None:
        self._nodes += 1
        if self._nodes > self._limits.nodes:
            raise ValueError(f"it has more than {self._limits.nodes} nodes")
        name = domain = overload = ""
        for number, value in fields(data):
            if number == 4:
                name = text(value, most=self._limits.name_bytes)
            elif number == 7:
                domain = text(value, most=self._limits.name_bytes)
            elif number == 8:
                overload = text(value, most=self._limits.name_bytes)
            elif number in (1, 2, 3):
                text(value, most=self._limits.name_bytes)
            elif number == 5:
                self._attribute(_bytes(value), found, depth)
        found.calls[domain, name, overload] += 1

    def _attribute(self, data: memoryview, found: _Body, depth: int) -> None:
        for number, value in fields(data):
            if number in (6, 11):
                self._graph(_bytes(value), found, depth + 1)
            elif number in (5, 10):
                self._tensor(_bytes(value))
            elif number in (22, 23):
                self._sparse(_bytes(value))

    def _sparse(self, data: memoryview) -> None:
        for number, value in fields(data):
            if number in (1, 2):
                self._tensor(_bytes(value))
            elif number == 3:
                self._dimensions(varints(value, most=self._limits.rank))

    def _tensor(self, data: memoryview) -> None:
        self._tensors += 1
        if self._tensors > self._limits.tensors:
            raise ValueError(f"it has more than {self._limits.tensors} tensors")
        name, dims, held, is_outside, outside = "", list[int](), 0, False, dict[str, str]()
        for number, value in fields(data):
            if number == 1:
                dims += varints(value, most=self._limits.rank)
            elif number == 8:
                name = text(value, most=self._limits.name_bytes)
            elif number == 14:
                is_outside = is_outside or _number(value) == 1
            elif number == 13:
                is_outside = True
                outside.update([self._pair(_bytes(value))])
            elif number in (4, 5, 6, 7, 9, 10, 11):
                held += 8 if isinstance(value, int) else max(1, len(value))
        elements = self._dimensions(dims)
        self._elements += elements
        if is_outside:
            self._outside(name, outside)
        elif elements > 8 * held:  # of the narrowest types four share a byte
            raise ValueError(f"the tensor {name[:80]!r} says it has {elements} elements and holds {held} bytes")

    def _outside(self, name: str, outside: Mapping[str, str]) -> None:
        location = outside.get("location", "")
        if not self._is_external_allowed:
            raise ValueError(f"the tensor {name[:80]!r} lies outside, in {location[:200]!r}")
        length = outside.get("length")
        found = External(
            location=location, offset=int(outside.get("offset", "0")), length=None if length is None else int(length)
        )
        if found.offset < 0 or (found.length or 0) < 0:
            raise ValueError(f"the tensor {name[:80]!r} lies before the beginning of {location[:200]!r}")
        self._external.append(found)

    def _pair(self, data: memoryview) -> tuple[str, str]:
        parts = {number: text(value, most=self._limits.name_bytes) for number, value in fields(data)}
        return parts.get(1, ""), parts.get(2, "")

    def _dimensions(self, dims: list[int]) -> int:
        if len(dims) > self._limits.rank:
            raise ValueError(f"a tensor has {len(dims)} dimensions, {self._limits.rank} at the most")
        elements = 1
        for size in dims:
            if not 0 <= size <= self._limits.dimension:
                raise ValueError(f"a tensor has a dimension of {size}")
            elements *= size
        return elements

    def _value_info(self, data: memoryview) -> None:
        """The declared type of a value: its dimensions lie at type.tensor_type.shape.dim.dim_value."""
        for type_ in _nested(data, 2):
            for tensor in _nested(type_, 1):
                for shape in _nested(tensor, 2):
                    dims = [value for dim in _nested(shape, 1) for number, value in fields(dim) if number == 1]
                    self._dimensions([_number(value) for value in dims])


def _nested(data: memoryview, wanted: int) -> list[memoryview]:
    return [_bytes(value) for number, value in fields(data) if number == wanted]


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes stand where a number should")
    return varints(value, most=1)[0]


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value
