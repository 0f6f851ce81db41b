"""Where the inference service keeps optimisations in the key-value state."""

from typing import Final

from chassis.kv import KV
from chassis.resources import Resources
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.names import ModelName, OptimizationName, ProjectName
from services.inference.store import ROOT

OPTIMIZATIONS: Final = f"{ROOT}optimizations/"
LEADER: Final = f"{ROOT}optimizations_leader"


def optimization_key(name: OptimizationName) -> str:
    """Where an optimisation lies."""
    return f"{OPTIMIZATIONS}{name.project}/{name.model}/{name.optimization}"


def optimizations_prefix(parent: ModelName | ProjectName) -> str:
    """Below it lie the optimisations of a model, or those of all models of a project."""
    model = f"{parent.model}/" if isinstance(parent, ModelName) else ""
    return f"{OPTIMIZATIONS}{parent.project}/{model}"


def optimization_name_of(key: str) -> OptimizationName:
    """The optimisation that lies at a key."""
    return OptimizationName(*key.removeprefix(OPTIMIZATIONS).split("/"))


def optimizations(kv: KV) -> Resources[OptimizationName, Optimization]:
    """The optimisations."""
    return Resources(kv, Optimization, optimization_key)
