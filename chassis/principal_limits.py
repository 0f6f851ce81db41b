"""How much each principal may use, as the policy says; pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

EVERYBODY: Final = "*"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The most that one principal may use; None: no limit."""

    requests_per_s: float | None = None
    max_unfinished: int | None = None  # of each kind: jobs, deployments, ...
    max_device_milli: int | None = None  # thousandths of devices, asked for by what has not ended, of each kind

    @property
    def is_counted(self) -> bool:
        """Whether what a principal holds has to be counted at all."""
        return self.max_unfinished is not None or self.max_device_milli is not None


UNLIMITED: Final = Allowance()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalLimit:
    """An allowance for each of some principals, or for `*`: everybody whom no other limit names."""

    members: tuple[str, ...]
    allowance: Allowance


class PrincipalLimits:
    """The limits of a policy, by principal; of several that name one, the least counts."""

    def __init__(self, limits: Iterable[PrincipalLimit] = ()) -> None:
        self._known: dict[str, Allowance] = {}
        for limit in limits:
            for member in limit.members:
                self._known[member] = _least(self._known.get(member, UNLIMITED), limit.allowance)
        self._rest = self._known.get(EVERYBODY, UNLIMITED)

    @property
    def is_counted(self) -> bool:
        """Whether anybody's holdings have to be counted."""
        return any(each.is_counted for each in self._known.values())

    def of(self, principal: str) -> Allowance:
        """What a principal may use."""
        return self._known.get(principal, self._rest)


def _least(one: Allowance, other: Allowance) -> Allowance:
    return Allowance(
        requests_per_s=_smaller(one.requests_per_s, other.requests_per_s),
        max_unfinished=_smaller(one.max_unfinished, other.max_unfinished),
        max_device_milli=_smaller(one.max_device_milli, other.max_device_milli),
    )


def _smaller(one: Number | None, other: Number | None) -> Number | None:
    return min((each for each in (one, other) if each is not None), default=None)
