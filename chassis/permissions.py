"""Permissions: sets of patterns, and the scopes in which a role counts for a resource."""

from collections.abc import Iterable
from typing import Final

ORGANISATION: Final = "*"
_DEPTH: Final = 8  # of a resource's name; no kind of resource lies deeper


class Permissions:
    """Patterns of permissions: `jobs.create` itself, `jobs.*` every verb, `*.get` every collection, `*` everything."""

    __slots__ = ("_all", "_exact", "_prefixes")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._exact: set[str] = set()
        self._prefixes: tuple[str, ...] = ()
        self._all = False
        self.add(patterns)

    def add(self, patterns: Iterable[str]) -> None:
        """Hold these as well."""
        for pattern in patterns:
            if pattern == "*":
                self._all = True
            elif pattern.endswith(".*"):
                self._prefixes += (pattern[:-1],)
            else:
                self._exact.add(pattern)

    def grants(self, permission: str) -> bool:
        """Whether one of the patterns matches."""
        return (
            self._all
            or permission in self._exact
            or permission.startswith(self._prefixes)
            or f"*.{permission.rpartition('.')[2]}" in self._exact
        )


def scopes_of(resource: str) -> list[str]:
    """Where a role may be held to count for a resource: the organisation, whatever the resource lies in, and itself.

    >>> scopes_of("projects/acme/jobs/digits")
    ['*', 'projects/acme', 'projects/acme/jobs/digits']
    """
    scopes = [ORGANISATION]
    end = -1
    for _ in range(_DEPTH):
        middle = resource.find("/", end + 1)
        if middle < 0 or middle + 1 == len(resource):
            break
        end = resource.find("/", middle + 1)
        if end < 0:
            scopes.append(resource)
            break
        scopes.append(resource[:end])
    return scopes
