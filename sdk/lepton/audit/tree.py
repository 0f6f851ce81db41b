"""Merkle trees as RFC 6962 (section 2.1) hashes them, whole or grown one leaf at a time."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

_NODE: Final = b"\x01"
EMPTY: Final = hashlib.sha256(b"").digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(_NODE + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """MTH of leaf hashes; of none, the hash of the empty string."""
    return Frontier.of(leaves).root


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The right edge of a tree: the roots of its whole subtrees, largest first. Enough to append, whatever its size."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, leaves: Iterable[bytes]) -> Self:
        """The edge of the tree over these leaf hashes."""
        size, peaks = 0, list[bytes]()
        for leaf in leaves:
            size = _grow(size, peaks, leaf)
        return cls(size=size, peaks=tuple(peaks))

    def append(self, leaf: bytes) -> "Frontier":
        """The edge with one more leaf."""
        peaks = list(self.peaks)
        return Frontier(size=_grow(self.size, peaks, leaf), peaks=tuple(peaks))

    @property
    def root(self) -> bytes:
        """The tree's root: its peaks joined from the right, as RFC 6962 splits at the largest power of two."""
        if not self.peaks:
            return EMPTY
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def _grow(size: int, peaks: list[bytes], leaf: bytes) -> int:
    peaks.append(leaf)
    at = size
    while at & 1:
        right = peaks.pop()
        peaks[-1] = node_hash(peaks[-1], right)
        at >>= 1
    return size + 1
