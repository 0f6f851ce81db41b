"""Etags: the revision of the last write, quoted, so that a write can be made conditional on what was read."""

from chassis.kv import Compare, Entry, mod
from lepton.errors import Aborted


def etag(revision: int) -> str:
    """The etag of a resource last written at this revision."""
    return f'"{revision}"'


def unchanged(entry: Entry, expected: str, name: object) -> Compare:
    """The condition that the entry is still what was read; Aborted when `expected`, if given, is another etag."""
    if expected and expected != etag(entry.mod_revision):
        raise Aborted("ETAG_MISMATCH", name=str(name))
    return mod(entry.key, entry.mod_revision)
