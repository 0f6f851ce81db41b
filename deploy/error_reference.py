"""Writes docs/errors.md from the sources: every reason that is raised, and what it means (`--check` compares)."""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from lepton import errors, reasons
from lepton.names import ResourceName

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "errors.md"
_SOURCES: Final = ("sdk/lepton", "chassis", "services", "deploy")
_CLASSES: Final = {kind.__name__: kind.code.name for kind in errors.CLASSES.values()}
_HEAD: Final = """# Errors

Every failed call carries a `google.rpc.Status` with one `ErrorInfo`: its `reason` is one of these, its `domain` the
service that answered (`trainer.lepton`), its `metadata` the facts. Match on the reason, never on the text. Beside it
come `BadRequest`, `PreconditionFailure`, `QuotaFailure`, `ResourceInfo` and `RetryInfo` where they belong. The SDK
raises the class of `lepton.errors` that is named after the code.

This page is written by `python -m deploy.error_reference` from the sources and from `sdk/lepton/reasons.py`.

| reason | code | what it means, and what to do |
|---|---|---|
"""


def used(root: Path = ROOT) -> Mapping[str, frozenset[str]]:
    """Every reason in the sources, and the codes with which it is raised."""
    found: dict[str, set[str]] = {}
    for folder in _SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                for reason, code in _raised(ast.parse(path.read_text(), str(path))):
                    found.setdefault(reason, set()).add(code)
    for kind in ResourceName.__subclasses__():  # lepton.names.not_found makes these
        variable = kind.pattern.rpartition("{")[2].rstrip("}")
        found.setdefault(f"{variable.upper()}_NOT_FOUND", set()).add("NOT_FOUND")
    for status, reason in errors.BARE_REASONS.items():
        found.setdefault(reason, set()).add(status.name)
    return {reason: frozenset(codes) for reason, codes in found.items()}


def page(root: Path = ROOT) -> str:
    """The text of docs/errors.md."""
    rows = (f"| `{reason}` | {', '.join(sorted(codes))} | {_meaning(reason)} |" for reason, codes in used(root).items())
    return _HEAD + "\n".join(sorted(rows)) + "\n"


def has_text(reason: str) -> bool:
    """Whether callers are told what to do."""
    return reason in reasons.TEXTS or reason.endswith(("_NOT_FOUND", "_ALREADY_EXISTS"))


def _raised(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        reason = node.args[0]
        if name in _CLASSES and isinstance(reason, ast.Constant) and isinstance(reason.value, str):
            yield reason.value, _CLASSES[name]


def _meaning(reason: str) -> str:
    if reason in reasons.TEXTS:
        return reasons.TEXTS[reason].replace("|", "\\|")
    return reasons.text(reason, {"name": "{name}"})


def main() -> None:
    """Write the page, or with --check say whether it is stale."""
    fresh = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != fresh:
            raise SystemExit("docs/errors.md is stale: run `python -m deploy.error_reference`")
        return
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(fresh)


if __name__ == "__main__":
    main()
