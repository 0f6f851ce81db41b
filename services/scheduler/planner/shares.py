"""How much of the fleet a project takes: its dominant share, and what it has used, older use counting less."""

from math import exp2, log
from typing import Final

AMOUNTS: Final = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps", "device_milli")


def decayed(share_s: float, elapsed_s: float, half_life_s: float) -> float:
    """What is left of a use after so many seconds."""
    return share_s * exp2(-max(0.0, elapsed_s) / half_life_s)


def accrued(share: float, elapsed_s: float, half_life_s: float) -> float:
    """What holding a share for so many seconds until now has come to, each second decayed since."""
    window_s = memory_s(half_life_s)
    return share * window_s * (1.0 - exp2(-max(0.0, elapsed_s) / half_life_s))


def memory_s(half_life_s: float) -> float:
    """Over how many seconds use is remembered: what holding the whole fleet for ever comes to."""
    return half_life_s / log(2.0)


def standing(share: float, used_share_s: float, half_life_s: float) -> float:
    """How much a project has had, for comparison with others: its mean share over the memory, and what it holds now.

    What it holds counts in full from the moment of admission, as if it had been held for the whole memory: the entry
    penalty. A burst of admissions between two samples is charged at once, and cannot beat the sampler.
    """
    return share + used_share_s / memory_s(half_life_s)
