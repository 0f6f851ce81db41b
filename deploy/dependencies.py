"""Checks what Lepton is built from, offline: pins, licences, and known vulnerabilities by a snapshot of advisories.

`python -m deploy.dependencies` is part of `make check`. It reads constraints.txt, what is installed, and
deploy/advisories.json: the PyPA advisory database (https://github.com/pypa/advisory-database, CC-BY-4.0) reduced to the
packages that are pinned. The snapshot is as old as it says; where there is a network, `pip-audit -r constraints.txt`
knows more. `--refresh CLONE` makes the snapshot from a clone of that database.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT: Final = Path(__file__).resolve().parent.parent
SNAPSHOT: Final = ROOT / "deploy" / "advisories.json"
# Words that the licences of what we use are made of. What is not here needs somebody's look, and a line below.
LICENCES: Final = re.compile(
    r"apache|mit\b|mit-|bsd|isc|python software foundation|psf|mpl|mozilla|unlicense|zlib|hpnd|cnri|0bsd|public domain|"
    r"blueoak|zpl",
    re.IGNORECASE,
)
FORBIDDEN: Final = re.compile(
    r"\b(?:agpl|affero|sspl|busl|business source|commons clause)|non-?commercial", re.IGNORECASE
)
# What names no licence in its metadata, or one that is not in LICENCES, with why it may be used all the same.
REVIEWED: Final[Mapping[str, str]] = {"namex": "its wheel holds the text of Apache-2.0, its metadata says nothing"}
# Advisories that do not concern us, with the reason. An entry that no pin needs is an error.
ACCEPTED: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """A known vulnerability: the ranges of versions that have it, `[introduced, fixed)`, and single versions."""

    id: str
    aliases: tuple[str, ...]
    package: str
    ranges: tuple[tuple[str, str], ...]
    versions: frozenset[str]

    def concerns(self, version: str) -> bool:
        """Whether this version has it."""
        found = Version(version.partition("+")[0])
        if any(_is_same(found, each) for each in self.versions):
            return True
        return any(_within(found, introduced, fixed) for introduced, fixed in self.ranges)


def pins(text: str) -> dict[str, str]:
    """What constraints.txt pins: versions by canonical name. ValueError for a line that is no exact pin."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
        if match is None:
            raise ValueError(f"constraints.txt: {line!r} is no exact pin; write name==version")
        found[canonicalize_name(match[1])] = match[2]
    return found


def vulnerable(pinned: Mapping[str, str], advisories: Iterable[Advisory]) -> list[str]:
    """A sentence for each pin with a known vulnerability that is not accepted."""
    found = []
    for each in advisories:
        version = pinned.get(each.package)
        if version is not None and each.concerns(version) and not {each.id, *each.aliases} & set(ACCEPTED):
            fixed = ", ".join(sorted({fixed for _, fixed in each.ranges if fixed})) or "no version"
            names = " ".join((each.id, *each.aliases))
            found.append(f"{each.package} {version} has {names}; fixed in {fixed}")
    return found


def unlicensed(licences: Mapping[str, str]) -> list[str]:
    """A sentence for each package whose licence forbids what we do, or that nobody has looked at."""
    found = []
    for name, licence in licences.items():
        if FORBIDDEN.search(licence):
            found.append(f"{name} is under {licence[:80]!r}, which Lepton cannot use")
        elif not LICENCES.search(licence) and name not in REVIEWED:
            found.append(
                f"{name} is under {licence[:80]!r}, which nobody has looked at: add it to REVIEWED or replace it"
            )
    return found


def licence_of(name: str) -> str:
    """What a package's metadata says of its licence: the expression, the classifiers, or the first lines."""
    metadata: Any = distribution(name).metadata
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", []) if "License ::" in each]
    return metadata.get("License-Expression") or "; ".join(classifiers) or (metadata.get("License") or "")[:200]


def read_snapshot(path: Path = SNAPSHOT) -> tuple[str, list[Advisory]]:
    """The day of the snapshot, and what it holds."""
    document = json.loads(path.read_text())
    return document["date"], [advisory_of(each) for each in document["advisories"]]


def advisory_of(document: Mapping[str, Any]) -> Advisory:
    """One entry of the snapshot."""
    return Advisory(
        id=document["id"],
        aliases=tuple(document["aliases"]),
        package=document["package"],
        ranges=tuple((introduced, fixed) for introduced, fixed in document["ranges"]),
        versions=frozenset(document["versions"]),
    )


def reduced(documents: Iterable[Mapping[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """Of a database's OSV documents those about these packages, as the snapshot has them."""
    found = []
    for document in documents:
        if document.get("withdrawn"):
            continue
        for affected in document.get("affected", ()):
            package = canonicalize_name(affected["package"]["name"])
            if package not in names:
                continue
            ranges = [
                pair for each in affected.get("ranges", ()) if each["type"] == "ECOSYSTEM" for pair in _pairs(each)
            ]
            # The list of versions repeats the ranges where there are any.
            versions = [] if ranges else sorted(affected.get("versions", ()))
            aliases = sorted(document.get("aliases", ()))
            found.append(
                {"id": document["id"], "aliases": aliases, "package": package, "ranges": ranges, "versions": versions}
            )
    return sorted(found, key=lambda each: (each["package"], each["id"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, or makes the snapshot; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dependencies", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--refresh", metavar="CLONE", type=Path, help="make the snapshot from a clone of the database")
    arguments = parser.parse_args(argv)
    pinned = pins((ROOT / "constraints.txt").read_text())
    if arguments.refresh is not None:
        _refresh(arguments.refresh, set(pinned))
        return 0
    date, advisories = read_snapshot()
    problems = [*vulnerable(pinned, advisories), *unlicensed({name: licence_of(name) for name in _installed(pinned)})]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(pinned)} pins, all licences known; of {len(advisories)} advisories ({date}) none concerns them")
    return 1 if problems else 0


def _installed(pinned: Mapping[str, str]) -> list[str]:
    found = []
    for name in pinned:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue  # for another Python, or an extra that this environment leaves out
        found.append(name)
    return found


def _pairs(found: Mapping[str, Any]) -> list[list[str]]:
    pairs: list[list[str]] = []
    for event in found["events"]:
        if "introduced" in event:
            pairs.append([event["introduced"], ""])
        elif "fixed" in event and pairs:
            pairs[-1][1] = event["fixed"]
    return pairs


def _within(version: Version, introduced: str, fixed: str) -> bool:
    try:
        return (introduced == "0" or version >= Version(introduced)) and (not fixed or version < Version(fixed))
    except InvalidVersion:
        return False


def _is_same(version: Version, text: str) -> bool:
    try:
        return version == Version(text)
    except InvalidVersion:
        return False


def _refresh(clone: Path, names: set[str]) -> None:
    listed = _git(clone, "ls-tree", "-r", "--name-only", "HEAD", "vulns").split()
    wanted = [path for path in listed if path.split("/")[1] in names]
    documents = [yaml.safe_load(_git(clone, "show", f"HEAD:{path}")) for path in wanted]
    date = _git(clone, "log", "-1", "--format=%cs").strip()
    source = {
        "source": "https://github.com/pypa/advisory-database",
        "commit": _git(clone, "rev-parse", "HEAD").strip(),
        "licence": "CC-BY-4.0; reduced to pinned packages, texts left out",
        "date": date,
    }
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in reduced(documents, names))
    head = json.dumps(source, indent=1)[:-2]
    SNAPSHOT.write_text(f'{head},\n "advisories": [\n{lines}\n ]\n}}\n')
    print(f"{len(lines.splitlines())} advisories of {date}")


def _git(clone: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(clone), *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
