"""Image datasets: read from where users have them, kept as one canonical safetensors file, split by seed."""

from lepton.data.dataset import Dataset, Split, from_safetensors, split, to_safetensors
from lepton.data.sources import digits, idx, load, npz

__all__ = ["Dataset", "Split", "digits", "from_safetensors", "idx", "load", "npz", "split", "to_safetensors"]
