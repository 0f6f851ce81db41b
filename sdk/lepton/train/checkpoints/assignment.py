"""Who writes what: every piece of a gang's state once, spread over the ranks that hold it; pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from lepton.errors import InvalidArgument
from lepton.train.checkpoints.manifest import ITEM_BYTES, Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one rank says it holds of a tensor; a plain tensor (no shard) is held whole."""

    dtype: str
    shape: Box
    offset: Box
    box: Box
    is_shard: bool

    @classmethod
    def from_json(cls, document: Sequence[Any]) -> Self:
        """What `to_json` wrote."""
        dtype, shape, offset, box, is_shard = document
        return cls(dtype=dtype, shape=tuple(shape), offset=tuple(offset), box=tuple(box), is_shard=is_shard)

    def to_json(self) -> list[Any]:
        """As a JSON array."""
        return [self.dtype, self.shape, self.offset, self.box, self.is_shard]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.box) * ITEM_BYTES[self.dtype]


def assign(ranks: Sequence[Mapping[str, Held]]) -> list[list[str]]:
    """The paths of the pieces that each rank writes.

    A piece that several ranks hold goes to the one of them with the least to write so far, the largest pieces first.
    A plain tensor that not all ranks have goes to the lowest one that has it. InvalidArgument when ranks disagree
    about a tensor, or its shards do not make up the whole.
    """
    holders: dict[tuple[str, Box, Box], list[int]] = {}
    tensors: dict[str, Held] = {}
    for rank, holdings in enumerate(ranks):
        for path, held in holdings.items():
            _check_alike(path, tensors.setdefault(path, held), held, rank)
            if held.size or not held.is_shard:
                holders.setdefault((path, held.offset, held.box), []).append(rank)
    _check_whole(tensors, holders)
    sizes = {piece: ranks[found[0]][piece[0]].size for piece, found in holders.items()}
    load = [0] * len(ranks)
    chosen: list[list[str]] = [[] for _ in ranks]
    for piece in sorted(holders, key=lambda piece: (-sizes[piece], piece)):
        found = holders[piece]
        is_everywhere = tensors[piece[0]].is_shard or len(found) == len(ranks)
        rank = min(found, key=lambda one: (load[one], one)) if is_everywhere else found[0]
        load[rank] += sizes[piece]
        chosen[rank].append(piece[0])
    return chosen


def _check_alike(path: str, first: Held, held: Held, rank: int) -> None:
    same = (first.dtype, first.shape, first.is_shard) == (held.dtype, held.shape, held.is_shard)
    if not same:
        one, other = (f"{each.dtype} {list(each.shape)}" for each in (first, held))
        raise InvalidArgument(
            "INVALID_FIELD", fields={f"state.{path}": f"is {other} on rank {rank} and {one} on a lower one"}
        )


def _check_whole(tensors: Mapping[str, Held], holders: Mapping[tuple[str, Box, Box], Sequence[int]]) -> None:
    covered = dict.fromkeys(tensors, 0)
    for path, _, box in holders:
        covered[path] += math.prod(box)
    for path, held in tensors.items():
        if covered[path] != math.prod(held.shape):
            problem = f"has shards of {covered[path]} elements in all where it has {math.prod(held.shape)}"
            raise InvalidArgument("INVALID_FIELD", fields={f"state.{path}": problem})
