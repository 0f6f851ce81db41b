"""Datasets: read from where users have them, kept as one canonical safetensors file, divided by seed.

from lepton import data

images = data.load("mnist/")                      # IDX pairs, NPZ, folders of pictures, or "digits"
texts = data.read("texts", "reviews.csv")         # also corpus, series, ratings, table
artifact = client.artifacts.upload(data.to_safetensors(images))
"""

from lepton.data.canonical import KINDS, AnyDataset, from_safetensors, parse, to_safetensors
from lepton.data.corpus import Corpus
from lepton.data.dataset import Dataset, Parts, Split, partition, split
from lepton.data.held_out import load_test_data, load_train_data
from lepton.data.idx import idx
from lepton.data.npz import npz
from lepton.data.pictures import pictures
from lepton.data.ratings import Ratings
from lepton.data.series import Series
from lepton.data.sources import digits, load, read
from lepton.data.table import Table
from lepton.data.texts import Texts

__all__ = [
    "KINDS", "AnyDataset", "Corpus", "Dataset", "Parts", "Ratings", "Series", "Split", "Table", "Texts", "digits",
    "from_safetensors", "idx", "load", "load_test_data", "load_train_data", "npz", "parse", "partition", "pictures",
    "read", "split", "to_safetensors",
]  # fmt: skip
