"""Text as numbers: words hashed into buckets, so that no vocabulary has to travel with a model.

Weinberger et al.: Feature Hashing for Large Scale Multitask Learning, 2009.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from lepton.data.limits import Array

_WORD: Final = re.compile(r"\w+|[^\w\s]")


def hashed(texts: Sequence[str], *, vocabulary: int, length: int) -> Array:
    """The first `length` words of each text as numbers from 1 to vocabulary - 1 (int64, N x length); 0 = none.

    This is what a served `text_classifier` takes; `vocabulary` and `length` are in its architecture.
    """
    tokens = np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        words = _WORD.findall(text[: 64 * length].lower())[:length]
        tokens[row, : len(words)] = [1 + zlib.crc32(word.encode()) % (vocabulary - 1) for word in words]
    return tokens
