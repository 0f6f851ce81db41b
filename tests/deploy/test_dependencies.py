"""The check of what Lepton is built from: it finds old pins and strange licences, and finds nothing now."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy import dependencies
from deploy.dependencies import Advisory, pins, read_snapshot, reduced, unlicensed, vulnerable


def advisory(**changes: Any) -> Advisory:
    facts = {
        "id": "PYSEC-1",
        "aliases": ("CVE-1",),
        "package": "x",
        "ranges": (("1.0", "2.0"),),
        "versions": frozenset(),
    }
    return Advisory(**{**facts, **changes})


def test_what_is_pinned_now_is_clean() -> None:
    assert dependencies.main([]) == 0


def test_an_old_pin_is_found() -> None:
    """The control, with the snapshot as it lies there: versions whose holes everybody knows."""
    _, advisories = read_snapshot()
    old = {"pillow": "9.0.0", "urllib3": "1.26.4", "jinja2": "2.11.2", "cryptography": "3.2", "werkzeug": "2.0.0"}
    found = vulnerable(old, advisories)
    assert {line.split()[0] for line in found} == set(old)
    assert any("CVE-2022-22817" in line for line in vulnerable({"pillow": "8.4.0"}, advisories))  # runs code


@pytest.mark.parametrize(
    ("version", "is_found"), [("0.9", False), ("1.0", True), ("1.9.9", True), ("2.0", False), ("1.5+cpu", True)]
)
def test_ranges_begin_with_the_first_and_end_before_the_fixed_version(version: str, is_found: bool) -> None:
    assert advisory().concerns(version) is is_found
    assert bool(vulnerable({"x": version}, [advisory()])) is is_found


def test_one_that_was_never_fixed_concerns_all_that_follow() -> None:
    assert advisory(ranges=(("0", ""),)).concerns("99")
    assert advisory(ranges=(), versions=frozenset({"3.0"})).concerns("3.0.0")


def test_one_that_is_accepted_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "ACCEPTED", {"CVE-1": "not called"})
    assert vulnerable({"x": "1.5"}, [advisory()]) == []


def test_what_is_accepted_is_needed() -> None:
    _, advisories = read_snapshot()
    assert set(dependencies.ACCEPTED) <= {name for each in advisories for name in (each.id, *each.aliases)}


@pytest.mark.parametrize("licence", ["AGPL-3.0", "GNU Affero General Public License v3", "SSPL-1.0", "", "Proprietary"])
def test_a_licence_that_is_not_ours_to_use_is_found(licence: str) -> None:
    assert unlicensed({"x": licence})


@pytest.mark.parametrize(
    "licence", ["Apache-2.0", "MIT", "BSD-3-Clause AND MIT", "Mozilla Public License 2.0 (MPL 2.0)"]
)
def test_others_are_not(licence: str) -> None:
    assert unlicensed({"x": licence}) == []


@pytest.mark.parametrize("line", ["x>=1", "x", "x==1.*", "x @ https://example.org/x.whl"])
def test_a_line_that_is_no_exact_pin_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no exact pin"):
        pins(f"# a comment\n{line}\n")


def test_the_snapshot_is_made_from_the_database_s_documents() -> None:
    document = {
        "id": "PYSEC-2",
        "aliases": ["CVE-2"],
        "affected": [
            {
                "package": {"name": "My.Package"},
                "ranges": [
                    {"type": "GIT", "events": [{"introduced": "0"}]},
                    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "2"}]},
                ],
                "versions": ["1.0"],
            },
            {"package": {"name": "other"}, "versions": ["1"]},
        ],
    }
    withdrawn = {**document, "id": "PYSEC-3", "withdrawn": "2024-01-01T00:00:00Z"}
    found = reduced([document, withdrawn], {"my-package"})
    assert found == [
        {
            "id": "PYSEC-2",
            "aliases": ["CVE-2"],
            "package": "my-package",
            "ranges": [["0", "1.2"], ["2", ""]],
            "versions": [],
        }
    ]


def test_bandit_finds_what_it_is_there_for(tmp_path: Path) -> None:
    """The control of the other half of `make check-security`."""
    (tmp_path / "bad.py").write_text("import torch\n\n\ndef f(path):\n    return torch.load(path)\n")
    command = ["bandit", "-q", "-ll", "-c", "pyproject.toml", "-r", str(tmp_path)]
    root = Path(dependencies.__file__).parent.parent
    found = subprocess.run(
        [str(root / ".venv/bin" / command[0]), *command[1:]], cwd=root, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "B614" in found.stdout
