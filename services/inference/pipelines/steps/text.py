"""Steps over words: lookup and tokenise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from lepton.models import Tensor
from services.inference.pipelines.steps.step import Array, Mismatch, must, onnx_model, texts, words

_BYTES = frozenset({"BYTES"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Words (BYTES) replaced by their values, INT64."""

    keys: tuple[str, ...]
    values: tuple[int, ...] = ()
    otherwise: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """`x`."""
        return ("x",)

    @property
    def table(self) -> Mapping[str, int]:
        """The value of each word."""
        return dict(zip(self.keys, self.values or range(len(self.keys)), strict=True))

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`."""
        if self.values and len(self.values) != len(self.keys):
            raise Mismatch("values", f"holds {len(self.values)} numbers for {len(self.keys)} keys; give one for each")
        x = must(given["x"], "x", types=_BYTES, ranks=range(2, 9))
        return (Tensor(name="y", datatype="INT64", shape=x.shape),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """LabelEncoder."""
        nodes = [_encoder("x", "y", self.table, self.otherwise)]
        return onnx_model("lookup", nodes, [replace(given["x"], name="x")], self.outputs(given))

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """A dictionary."""
        table, x = self.table, arrays["x"]
        found = [table.get(word, self.otherwise) for word in x.ravel()]
        return {"y": np.array(found, np.int64).reshape(x.shape)}

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Known words, and one that is not."""
        shape = (rows, *(4 if size < 0 else size for size in given["x"].shape[1:]))
        known = texts([*self.keys[:1000], "\N{REPLACEMENT CHARACTER}"])
        return {"x": known[random.integers(0, len(known), shape)]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenise:
    """Texts (BYTES, batch x 1) cut at blanks, their first `length` words replaced by numbers (INT64)."""

    vocabulary: tuple[str, ...]
    length: int
    first: int = 0
    unknown: int = 0
    padding: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """`x`."""
        return ("x",)

    @property
    def table(self) -> Mapping[str, int]:
        """The number of each word; the empty one is what fills."""
        return {**{word: self.first + at for at, word in enumerate(self.vocabulary)}, "": self.padding}

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`."""
        for word in self.vocabulary:
            if not word or word.split() != [word]:
                raise Mismatch("vocabulary", f"holds {word[:40]!r}, which no text can hold as one word")
        x = must(given["x"], "x", types=_BYTES, ranks=(2,))
        if x.shape[1] != 1:
            raise Mismatch("x", f"has {x.shape[1]} texts a row; give one: BYTES[-1, 1]")
        return (Tensor(name="y", datatype="INT64", shape=(-1, self.length)),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """StringSplit gives as many columns as the longest text has words: filled up, then cut."""
        nodes = [
            helper.make_node("Squeeze", ["x", "second"], ["text"]),
            helper.make_node("StringSplit", ["text"], ["split", "counts"]),
            helper.make_node("Shape", ["text"], ["rows"]),
            helper.make_node("Concat", ["rows", "length"], ["filling"], axis=0),
            helper.make_node("Expand", ["none", "filling"], ["fill"]),
            helper.make_node("Concat", ["split", "fill"], ["long"], axis=1),
            helper.make_node("Slice", ["long", "begin", "length", "second"], ["words"]),
            _encoder("words", "y", self.table, self.unknown),
        ]
        constants = [
            numpy_helper.from_array(np.array([1], np.int64), "second"),
            numpy_helper.from_array(np.array([0], np.int64), "begin"),
            numpy_helper.from_array(np.array([self.length], np.int64), "length"),
            words("none", [""]),
        ]
        return onnx_model("tokenise", nodes, [replace(given["x"], name="x")], self.outputs(given), constants)

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Text by text."""
        table = self.table
        y = np.full((len(arrays["x"]), self.length), self.padding, np.int64)
        for row, text in enumerate(arrays["x"].ravel()):
            found = [table.get(word, self.unknown) for word in text.split()[: self.length]]
            y[row, : len(found)] = found
        return {"y": y}

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Texts of known words and one that is not, the first of them empty."""
        known = [*self.vocabulary[:1000], "\N{REPLACEMENT CHARACTER}"]
        counts = [0, *random.integers(1, self.length + 3, rows - 1)]
        drawn = [" ".join(known[at] for at in random.integers(0, len(known), count)) for count in counts]
        return {"x": texts(drawn).reshape(rows, 1)}


def _encoder(given: str, made: str, table: Mapping[str, int], otherwise: int) -> NodeProto:
    return helper.make_node(
        "LabelEncoder",
        [given],
        [made],
        domain="ai.onnx.ml",
        keys_strings=list(table),
        values_int64s=list(table.values()),
        default_int64=otherwise,
    )
