"""That docs/security.md speaks of tests that there are, and of every row."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text()
ROWS = range(26, 45)


def functions() -> dict[str, list[str]]:
    """The tests of each file, by the file's path below `tests`."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        names = re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
        found[str(path.relative_to(TESTS))] = names
    return found


def missing(page: str, known: dict[str, list[str]]) -> list[str]:
    """What the page names in code marks as a test or a file of tests, and is none. An ellipsis stands for anything."""
    every = [name for names in known.values() for name in names]
    wrong = []
    for code in re.findall(r"`([^`\n]+)`", page):
        file, _, name = code.partition("::") if ".py" in code else ("", "", code)
        if file.rpartition("/")[2].startswith("test_") and file not in known:
            wrong.append(code)
            continue
        if re.fullmatch(r"(?:test_|…)\w*[\w…]*", name) is None or name == "…":
            continue
        fits = re.compile(".*".join(map(re.escape, name.split("…"))))
        if not any(fits.fullmatch(each) for each in (known.get(file, []) if file else every)):
            wrong.append(code)
    return wrong


def test_every_test_that_the_page_names_exists() -> None:
    assert missing(PAGE, functions()) == []


def test_a_test_that_does_not_exist_is_missed() -> None:
    known = {"a/test_b.py": ["test_one", "test_the_other"]}
    assert missing("`a/test_b.py::test_one` `test_the_other` `test_the_…` `…_other` `a/test_b.py`", known) == []
    for wrong in ("`test_two`", "`a/test_b.py::test_two`", "`a/test_c.py`", "`test_one_…`", "`a/test_c.py::test_one`"):
        assert missing(wrong, known)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_in_the_table_with_a_test(row: int) -> None:
    table = PAGE.partition("\n## Every row\n")[2].partition("\n## ")[0]
    line = next((each for each in table.splitlines() if each.startswith(f"| {row} |")), "")
    assert "`" in line or "the same" in line, f"no row {row} under `## Every row`"


def test_the_page_names_no_file_that_the_repository_does_not_have() -> None:
    """Rows are named by their number alone."""
    assert re.search(r"faults\.md|\.\./shared|issue #?\d", PAGE) is None
