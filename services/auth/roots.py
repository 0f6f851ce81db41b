"""The roots of the mesh's trust at a moment: which one signs, which are trusted, and when that changes; pure.

A new root is published, signs after a while, and the former stays trusted for as long again. Which of them does what
follows from the record and the clock alone, so that all replicas agree without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.auth.ca import Authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The root, and its successor with the times of the change; every question is answered for a moment."""

    first: Authority
    next: Authority | None = None
    sign_time: datetime | None = None
    """From when on the successor signs."""
    trust_end: datetime | None = None
    """Until when the first is trusted."""

    def signing(self, now: datetime) -> Authority:
        """The one that signs."""
        has_taken_over = self.next is not None and self.sign_time is not None and now >= self.sign_time
        return self.next if has_taken_over and self.next is not None else self.first

    def trusted(self, now: datetime) -> tuple[Authority, ...]:
        """Those that members are to trust; the one that signs is first."""
        if self.next is None:
            return (self.first,)
        if self.is_over(now):
            return (self.next,)
        return (self.next, self.first) if self.signing(now) is self.next else (self.first, self.next)

    def is_over(self, now: datetime) -> bool:
        """Whether the successor stands alone."""
        return self.next is not None and self.trust_end is not None and now >= self.trust_end

    def bundle_pem(self, now: datetime) -> str:
        """What members are to trust, as PEM."""
        return "".join(each.trust_bundle_pem for each in self.trusted(now))

    def changes_at(self, now: datetime) -> datetime | None:
        """When the answers change next; None = they do not."""
        return min((each for each in (self.sign_time, self.trust_end) if each is not None and each > now), default=None)


def states(roots: Roots, now: datetime) -> Sequence[tuple[Authority, str]]:
    """The trusted roots with what each does: SIGNING, PUBLISHED (will sign) or RETIRING (did)."""
    signing = roots.signing(now)
    other = "PUBLISHED" if signing is roots.first else "RETIRING"
    return [(each, "SIGNING" if each is signing else other) for each in roots.trusted(now)]
