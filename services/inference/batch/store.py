"""Where batch predictions lie in the key-value state."""

from typing import Final

from chassis.kv import KV
from chassis.resources import Resources
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.names import BatchPredictionName, ProjectName
from services.inference.store import ROOT

BATCH_PREDICTIONS: Final = f"{ROOT}batchPredictions/"
LEADER: Final = f"{ROOT}batch_leader"


def prefix(project: ProjectName) -> str:
    """Below it lie a project's batch predictions."""
    return f"{BATCH_PREDICTIONS}{project.project}/"


def key(name: BatchPredictionName) -> str:
    """Where one lies."""
    return f"{BATCH_PREDICTIONS}{name.project}/{name.batch_prediction}"


def name_of(at: str) -> BatchPredictionName:
    """The one that lies at a key."""
    project, _, own = at.removeprefix(BATCH_PREDICTIONS).partition("/")
    return BatchPredictionName(project, own)


def batch_predictions(kv: KV) -> Resources[BatchPredictionName, BatchPrediction]:
    """All of them."""
    return Resources(kv, BatchPrediction, key)
