"""Ratings of items by users: the canonical dataset of the recommender, and where it is read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from lepton.data.limits import Array, as_labels, invalid
from lepton.data.rows import Rows
from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """Pairs of user and item numbers (int64, N x 2), which stand for the names, with a rating each (float32, N)."""

    kind: ClassVar[str] = "ratings"
    pairs: Array
    ratings: Array
    users: tuple[str, ...]
    items: tuple[str, ...]

    def __post_init__(self) -> None:
        problem = ""
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 2 or self.pairs.dtype != np.int64 or len(self.pairs) < 2:
            problem = f"pairs are {self.pairs.dtype} of shape {self.pairs.shape}; give two or more of user and item"
        elif self.ratings.shape != self.pairs.shape[:1] or self.ratings.dtype != np.float32:
            problem = f"ratings are {self.ratings.dtype} of shape {self.ratings.shape}; give one float32 a pair"
        elif not np.isfinite(self.ratings).all():
            problem = "ratings hold NaN or infinite numbers; remove those rows"
        elif self.pairs.min() < 0 or (self.pairs.max(axis=0) >= (len(self.users), len(self.items))).any():
            problem = "a pair names a user or an item that is not listed"
        if problem:
            raise InvalidArgument("DATASET_INVALID", problem=problem)

    def __len__(self) -> int:
        return len(self.pairs)

    def arrays(self) -> Mapping[str, Array]:
        """What the canonical file holds."""
        return {"pairs": self.pairs, "ratings": self.ratings}

    def facts(self) -> Mapping[str, Any]:
        """What it says beside the arrays."""
        return {"users": list(self.users), "items": list(self.items)}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The dataset of a canonical file."""
        users, items = tuple(map(str, facts["users"])), tuple(map(str, facts["items"]))
        return cls(pairs=arrays["pairs"], ratings=arrays["ratings"], users=users, items=items)


def read_ratings(path: Path) -> Ratings:
    """A .csv or .jsonl file with the columns user, item and rating (MovieLens's names do as well)."""
    table = Rows.read(path)
    users, user_names = as_labels(table.column("user", "user_id", "userId"))
    items, item_names = as_labels(table.column("item", "item_id", "itemId", "movieId", "product"))
    index = table.index("rating", "score", "value")
    ratings = np.array([table.number(row, index) for row in range(len(table.rows))], np.float64).astype(np.float32)
    try:
        return Ratings(pairs=np.stack([users, items], 1), ratings=ratings, users=user_names, items=item_names)
    except InvalidArgument as error:
        raise invalid(path, error.metadata["problem"]) from error
