"""The canonical file of a dataset of any kind: one safetensors file, whose header says what kind it is.

    x, y [, x_test, y_test]      images; a file without a header entry is of this kind
    bytes, ends, y               texts
    content                      corpus
    values                       series
    pairs, ratings               ratings
    x, y                         table

The entry `lepton.dataset` of the header's metadata holds {"kind": .., "facts": {..}} as JSON. Nothing is ever pickled.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lepton.data.corpus import Corpus
from lepton.data.dataset import Dataset
from lepton.data.ratings import Ratings
from lepton.data.series import Series
from lepton.data.table import Table
from lepton.data.texts import Texts
from lepton.errors import InvalidArgument

AnyDataset = Dataset | Texts | Corpus | Series | Ratings | Table
KINDS: Final[Mapping[str, type[AnyDataset]]] = {
    each.kind: each for each in (Dataset, Texts, Corpus, Series, Ratings, Table)
}
_ENTRY: Final = "lepton.dataset"


def to_safetensors(dataset: AnyDataset) -> bytes:
    """The dataset as the bytes of one safetensors file; equal ones give equal bytes."""
    arrays = {name: np.ascontiguousarray(array) for name, array in dataset.arrays().items()}
    facts = dataset.facts()
    if dataset.kind == Dataset.kind and not facts:
        return bytes(save_tensors(arrays))
    document = json.dumps({"kind": dataset.kind, "facts": facts}, sort_keys=True, separators=(",", ":"))
    return bytes(save_tensors(arrays, metadata={_ENTRY: document}))


def from_safetensors(data: bytes) -> Dataset:
    """The image dataset that `to_safetensors` wrote; InvalidArgument when it is none."""
    dataset = parse(data)
    if not isinstance(dataset, Dataset):
        raise InvalidArgument("DATASET_INVALID", problem=f"it is a dataset of the kind {dataset.kind}, not of images")
    return dataset


def parse(data: bytes) -> AnyDataset:
    """The dataset that `to_safetensors` wrote, of whatever kind."""
    try:
        tensors = load_tensors(data)
        described = _description(data)
        return KINDS[described["kind"]].of(tensors, described["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise InvalidArgument(
            "DATASET_INVALID", problem=f"not a safetensors file with the tensors x and y ({error}); convert it again"
        ) from error


def _description(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<Q", data)
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    if _ENTRY not in metadata:
        return {"kind": Dataset.kind, "facts": {}}
    document: dict[str, Any] = json.loads(metadata[_ENTRY])
    return document
