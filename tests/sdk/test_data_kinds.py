"""Texts, corpora, series, ratings and tables: read, kept, read again; and what is wrong is named with its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton import data
from lepton.data.tokens import hashed
from lepton.errors import InvalidArgument, NotFound

REVIEWS = 'text,label\n"good, really",pos\nbad,neg\nfine,pos\n'
LINES = """{"text": "good, really", "label": "pos"}
{"text": "bad", "label": "neg"}

{"text": "fine", "label": "pos"}
"""
SALES = "day,shop,web\n2026-01-02,3,4\n2026-01-01,1,2\n2026-01-04,7,8\n2026-01-03,5,6\n"
STARS = "userId,movieId,rating\n7,a,4\n10,b,2.5\n7,b,1\n"
LOANS = "income,branch,target\n10,trade,0\n,craft,1\n30,,0\n40,trade,1\n"


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def kept(dataset: data.AnyDataset) -> Any:
    content = data.to_safetensors(dataset)
    again = data.parse(content)
    assert data.to_safetensors(again) == content
    assert type(again) is type(dataset)
    return again


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reviews.csv", REVIEWS),
        ("reviews.jsonl", LINES),
    ],
)
def test_texts_of_a_table(tmp_path: Path, name: str, text: str) -> None:
    texts = kept(data.read("texts", written(tmp_path, name, text)))
    assert texts.texts == ("good, really", "bad", "fine")
    assert (texts.names, texts.y.tolist()) == (("neg", "pos"), [1, 0, 1])


def test_texts_of_folders_with_a_test_set(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("ham", "spam"):
            written(tmp_path, f"{part}/{label}/1.txt", f"{label} in {part}")
    texts = kept(data.read("texts", str(tmp_path)))
    assert (texts.given_test, texts.texts[-1]) == (2, "spam in test")


def test_a_corpus_of_files_with_a_test_set(tmp_path: Path) -> None:
    written(tmp_path, "b.txt", "second " * 10)
    written(tmp_path, "a.txt", "first " * 10)
    written(tmp_path, "test.txt", "held out")
    corpus = kept(data.read("corpus", str(tmp_path)))
    assert corpus.content.tobytes().decode() == "first " * 10 + "\n" + "second " * 10 + "held out"
    assert corpus.given_test == 8


def test_series_are_put_into_the_order_of_time(tmp_path: Path) -> None:
    series = kept(data.read("series", written(tmp_path, "sales.csv", SALES), time="day"))
    assert series.columns == ("shop", "web")
    assert series.values.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_ratings_number_users_and_items_by_name(tmp_path: Path) -> None:
    ratings = kept(data.read("ratings", written(tmp_path, "stars.csv", STARS)))
    assert (ratings.users, ratings.items) == (("7", "10"), ("a", "b"))
    assert ratings.pairs.tolist() == [[0, 0], [1, 1], [0, 1]]
    assert ratings.ratings.tolist() == [4, 2.5, 1]


def test_a_table_has_numbers_categories_and_gaps(tmp_path: Path) -> None:
    table = kept(data.read("table", written(tmp_path, "loans.csv", LOANS)))
    assert (table.columns, table.categories) == (("income", "branch"), ((), ("craft", "trade")))
    assert np.array_equal(table.x, np.array([[10, 1], [np.nan, 0], [30, np.nan], [40, 1]]), equal_nan=True)
    assert (table.y.tolist(), table.names) == ([0, 1, 0, 1], ("0", "1"))
    other = data.read("table", written(tmp_path, "loans.csv", LOANS.replace(",,0", ",craft,0")), target="branch")
    assert isinstance(other, data.Table)
    assert (other.names, other.columns) == (("craft", "trade"), ("income", "target"))


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("texts", "text\nx\n", "has no column 'label' or 'class' or 'y' but text"),
        ("texts", "text,label\nx,a\ny,a\n", "at least two"),
        ("texts", "text,label\nx\n", "line 2 has 1 cells, the header 2"),
        ("texts", "", "0 columns"),
        ("texts", "text,label\n", "no rows"),
        ("texts", "text,text\nx,y\n", "of the same name"),
        ("series", "day,shop\n1,2\n2,3\n", "has no column 'time'"),
        ("series", "time,shop\n1,2\n1,3\n2,3\n4,5\n", "the moment '1' twice"),
        ("series", "time,shop\n1,2\n2,x\n3,4\n4,5\n", "row 2, column 'shop': 'x' is no number"),
        ("series", "time,shop\nmonday,2\n2,3\n3,4\n4,5\n", "'monday' is no time"),
        ("series", "time,shop\n1,2\n2,nan\n3,4\n4,5\n", "fill the gaps"),
        ("ratings", "user,item,rating\n1,2,good\n1,3,4\n", "'good' is no number"),
        ("ratings", "user,item,rating\n1,2,inf\n1,3,4\n", "remove those rows"),
        ("table", "a,target\n1,\n2,1\n", "misses the target"),
        ("table", "a,target\n1,1\n2,1\n", "at least two"),
        ("table", "target\n1\n2\n", "x is"),
        ("table", "a,target\n1e99,1\n2,0\n", "infinite"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, kind: str, text: str, problem: str) -> None:
    path = written(tmp_path, "wrong.csv", text)
    with pytest.raises(InvalidArgument, match="DATASET_INVALID") as caught:
        data.read(kind, path)
    assert problem in caught.value.metadata["problem"]
    assert caught.value.metadata["file"] == path


@pytest.mark.parametrize("kind", ["texts", "corpus", "series", "ratings", "table"])
def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(NotFound):
        data.read(kind, str(tmp_path / "absent.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\0\xff\xfe" * 100)
    with pytest.raises(InvalidArgument):
        data.read(kind, str(tmp_path / "binary.csv"))


def test_a_dataset_of_another_kind_is_not_taken_for_images(tmp_path: Path) -> None:
    content = data.to_safetensors(data.read("texts", written(tmp_path, "reviews.csv", REVIEWS)))
    with pytest.raises(InvalidArgument, match="kind texts, not of images"):
        data.from_safetensors(content)
    (tmp_path / "set.safetensors").write_bytes(content)
    with pytest.raises(InvalidArgument, match="kind texts, not table"):
        data.read("table", str(tmp_path / "set.safetensors"))


@pytest.mark.parametrize("damage", [lambda c: c[:-3], lambda c: c.replace(b'\\"kind\\"', b'\\"kinf\\"'), lambda _: b""])
def test_a_damaged_canonical_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    content = data.to_safetensors(data.read("texts", written(tmp_path, "reviews.csv", REVIEWS)))
    with pytest.raises(InvalidArgument, match="convert it again"):
        data.parse(damage(content))


def test_words_are_hashed_alike_everywhere() -> None:
    tokens = hashed(["Good, good!", ""], vocabulary=1000, length=5)
    assert tokens.shape == (2, 5)
    assert tokens[0, 0] == tokens[0, 2] > 0
    assert tokens[0].tolist() == hashed(["good , good !"], vocabulary=1000, length=5)[0].tolist()
    assert not tokens[1].any()
    assert tokens.max() < 1000
