"""Small datasets of every kind, made from a seed, each with something in it that the simplest guess does not find."""

import math

import numpy as np
import torch
from torch.nn import functional

from lepton import data

_GOOD = ("good", "fine", "lovely", "quick", "solid")
_BAD = ("bad", "poor", "ugly", "slow", "flimsy")
_FILL = ("the", "chair", "phone", "book", "is", "and", "very", "it", "was", "a", "rather", "colour", "delivery")


def mnist_like(count: int, seed: int) -> data.Dataset:
    """Images of 28 x 28 pixels: scikit-learn's digits, enlarged, turned, sheared, stretched and moved at random."""
    digits = data.digits()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, len(digits), (count,), generator=generator)
    x = torch.from_numpy(digits.x).float()[chosen] / 16
    x = functional.interpolate(x, size=(20, 20), mode="bicubic").clamp(0, 1)
    x = functional.pad(x, (4, 4, 4, 4))
    drawn = torch.rand(count, 6, generator=generator) * 2 - 1
    angle = drawn[:, 0] * math.radians(15)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    wide, high = 1 + 0.15 * drawn[:, 1], 1 + 0.15 * drawn[:, 2]
    across = torch.stack([cosine / wide, -sine + 0.2 * drawn[:, 3], drawn[:, 4] / 7], 1)
    down = torch.stack([sine, cosine / high, drawn[:, 5] / 7], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, align_corners=False)
    return data.Dataset(x=(x * 255).clamp(0, 255).byte().numpy(), y=digits.y[chosen.numpy()])


def reviews(count: int, seed: int) -> data.Texts:
    """Short reviews, of which half turn their judgement round with a `not`: counting words alone does not tell."""
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        is_good, is_turned = generator.random() < 0.5, generator.random() < 0.5
        word = str(generator.choice(_GOOD if is_good else _BAD))
        words = [str(each) for each in generator.choice(_FILL, size=int(generator.integers(4, 12)))]
        place = int(generator.integers(0, len(words)))
        words[place:place] = ["not", word] if is_turned else [word]
        texts.append(" ".join(words))
        labels.append(int(is_good != is_turned))
    return data.Texts(texts=tuple(texts), y=np.array(labels, np.int64), names=("bad", "good"))


def stories(size: int, seed: int) -> data.Corpus:
    """Sentences of one pattern in which who acts decides on what: what follows depends on more than the last letter."""
    generator = np.random.default_rng(seed)
    actors = {
        "baker": ("bread", "cake"),
        "smith": ("iron", "steel"),
        "miller": ("corn", "flour"),
        "sailor": ("rope", "sea"),
    }
    lines: list[str] = []
    while sum(map(len, lines)) < size:
        actor = str(generator.choice(list(actors)))
        lines.append(f"the {actor} {generator.choice(['loves', 'needs'])} the {generator.choice(actors[actor])}.\n")
    return data.Corpus(content=np.frombuffer("".join(lines).encode()[:size], np.uint8))


def seasons(count: int, seed: int) -> data.Series:
    """Two series with a season of 24, one of them with a trend, and noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(count)
    first = 10 * np.sin(2 * np.pi * time / 24) + 3 * np.sin(2 * np.pi * time / 12) + 0.01 * time
    second = 100 + 20 * np.cos(2 * np.pi * time / 24)
    noise = generator.normal(size=(count, 2)) * (1.0, 2.0)
    values = (np.stack([first, second], 1) + noise).astype(np.float32)
    return data.Series(values=values, columns=("heat", "load"))


def tastes(count: int, seed: int) -> data.Ratings:
    """Ratings from 1 to 5 by 60 users of 40 items: what both like in common, how kind a user is, how good an item."""
    generator = np.random.default_rng(seed)
    user, item = generator.normal(size=(60, 3)), generator.normal(size=(40, 3))
    kind, good = generator.normal(size=60) * 0.3, generator.normal(size=40) * 0.3
    pairs = np.stack([generator.integers(0, 60, count), generator.integers(0, 40, count)], 1)
    likes = (user[pairs[:, 0]] * item[pairs[:, 1]]).sum(1) * 0.7
    ratings = 3 + likes + kind[pairs[:, 0]] + good[pairs[:, 1]] + generator.normal(size=count) * 0.2
    return data.Ratings(
        pairs=pairs.astype(np.int64),
        ratings=np.clip(ratings, 1, 5).astype(np.float32),
        users=tuple(f"user{number}" for number in range(60)),
        items=tuple(f"item{number}" for number in range(40)),
    )


def loans(count: int, seed: int) -> data.Table:
    """Loans, of which a fifth default: where debt exceeds income, and in one branch the other way round; with gaps."""
    generator = np.random.default_rng(seed)
    income, debt = generator.lognormal(0, 0.5, count), generator.lognormal(0, 0.5, count)
    branch = generator.integers(0, 3, count)
    score = np.where(branch == 2, income - debt, debt - income) + 0.2 * generator.normal(size=count)
    y = (score > np.quantile(score, 0.8)).astype(np.int64)
    x = np.stack([1000 * income, debt, branch], 1).astype(np.float32)
    x[generator.random(x.shape) < 0.05] = np.nan
    return data.Table(
        x=x,
        y=y,
        columns=("income", "debt", "branch"),
        categories=((), (), ("trade", "craft", "farm")),
        names=("repaid", "defaulted"),
    )
