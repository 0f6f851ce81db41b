"""What a fork costs training, and how a thread takes most of it over. Best effort: contents never change here.

A fork copies the page tables, 10 to 20 ms for 400 MB in pages of 4 KB; and a page that parent and child share is
copied when the parent first writes to it, one fault of the training thread each. So after the fork a thread has the
kernel copy what training changes in one go, of tensors that changed since the checkpoint before (a frozen trunk stays
shared); and once the child is gone it has the kernel put the pages together into huge ones, so that the next fork has
little to copy.
"""

import ctypes
from collections.abc import Iterable, Mapping
from typing import Final

from lepton.train.checkpoints.memory import Holding

Span = tuple[int, int]
"""Memory from an address up to another."""

_MADV_POPULATE_WRITE: Final = 23  # since Linux 5.14; what a kernel does not know it refuses
_MADV_COLLAPSE: Final = 25  # since Linux 6.1
_PAGE: Final = 4 << 10
_HUGE_PAGE: Final = 2 << 20
_LEAST_BYTES: Final = 64 * _PAGE
_GAP: Final = 2 * _PAGE  # what an allocator leaves between two large blocks

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Changes:
    """Which memory training changes, seen from one checkpoint to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def since_last(self, holdings: Mapping[str, Holding]) -> list[Span]:
        """The memory of the large tensors that changed since the last call, joined; none at the first call."""
        before, self._seen = self._seen, {path: _version(held) for path, held in holdings.items()}
        return joined(
            (held.local.data_ptr(), held.local.data_ptr() + held.local.nbytes)
            for path, held in holdings.items()
            if path in before
            and before[path] != self._seen[path]
            and held.local.nbytes >= _LEAST_BYTES
            and held.local.is_contiguous()
        )


def joined(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, neighbours made one; pure."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1] + _GAP:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def make_own(spans: Iterable[Span]) -> None:
    """Gives this process pages of its own for memory that it shares with a child."""
    for span in spans:
        _advise(span, _PAGE, _MADV_POPULATE_WRITE)


def make_huge(spans: Iterable[Span]) -> None:
    """Puts memory that was copied page by page together into huge pages again, where the machine allows them."""
    for span in spans:
        _advise(span, _HUGE_PAGE, _MADV_COLLAPSE)


def _advise(span: Span, page: int, advice: int) -> None:
    begin, end = -(-span[0] // page) * page, span[1] // page * page
    if begin < end:
        _madvise(begin, end - begin, advice)  # memory that was freed meanwhile is refused, which is just as well


def _version(held: Holding) -> tuple[int, int]:
    local = held.local
    return local.data_ptr(), 0 if local.is_inference() else local._version  # noqa: SLF001
