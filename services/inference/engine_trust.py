"""Whose engines are run: those that an optimisation of the project has made, for an engine is native code."""

from chassis.kv import KV
from lepton.errors import InvalidArgument
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.models.package import ENGINES
from lepton.names import OptimizationName, ProjectName
from services.inference.optimizations.keys import optimizations


async def check_engines(kv: KV, project: ProjectName, version: ModelVersion) -> None:
    """Raises InvalidArgument (PACKAGE_INVALID) for a version with engines whose package no optimisation has made.

    What an optimisation made is written by this service alone, so naming one in the lineage proves nothing by itself.
    """
    engine = next((name for name in sorted(version.files) if name.startswith(ENGINES)), "")
    if not engine or await _was_made_here(kv, project, version):
        return
    problem = f"holds {engine}: an engine is a program, and only `lepton models optimize` puts one there; leave it out"
    raise InvalidArgument("PACKAGE_INVALID", fields={"model_version.package": problem})


async def _was_made_here(kv: KV, project: ProjectName, version: ModelVersion) -> bool:
    try:
        name = OptimizationName.parse(version.lineage.optimization)
    except InvalidArgument:
        return False
    found = await optimizations(kv).find(name) if name.project == project.project else None
    return found is not None and any(each.package == version.package for each in found.variant_states)
