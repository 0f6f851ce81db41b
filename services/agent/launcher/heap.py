"""How a rank's memory allocator treats what is freed: it keeps it for the next step.

A training step frees what it allocates. The C library gives large blocks back to the kernel at once, which hands them
out again page by page, zeroed: some 900 faults in each step of a network of half a million parameters, 8 to 10 % of
the step's processor time. Blocks of more than 32 MiB, the most that the C library lets one ask for, go back as before.
"""

import ctypes
from collections.abc import Mapping
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_KEPT: Final = 32 << 20  # bytes of a block
_MOST_KEPT: Final = 512 << 20  # bytes at the end of the heap
_DECIDED_BY: Final = ("GLIBC_TUNABLES", "LD_PRELOAD")


def keep_what_is_freed(environment: Mapping[str, str]) -> None:
    """Sets this process's allocator so, unless the environment decides about it, or the C library is another."""
    if any(name.startswith("MALLOC_") or name in _DECIDED_BY for name in environment):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
