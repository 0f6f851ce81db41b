"""Checkpoints: a gang's state as content-addressed safetensors files under a manifest, for any number of ranks.

Every rank takes part: what several ranks hold is written once, by one of them, and a DTensor's shards by those that
have them. Training waits for a snapshot only; files are written aside, and a checkpoint exists once its manifest does,
which is written last. See `manifest` for the format and `writing` for how the ranks agree.
"""

from lepton.train.checkpoints.checkpoint import Checkpoint
from lepton.train.checkpoints.exchange import gang_store
from lepton.train.checkpoints.manifest import FORMAT, TREE, File, Manifest, Piece, Position, StoredTensor
from lepton.train.checkpoints.resuming import newest_whole
from lepton.train.checkpoints.saver import Saver, save

load = Checkpoint

__all__ = [
    "FORMAT", "TREE", "Checkpoint", "File", "Manifest", "Piece", "Position", "Saver", "StoredTensor", "gang_store",
    "load", "newest_whole", "save",
]  # fmt: skip
