"""An engine is native code: only what an optimisation of the project has made is ever served."""

import pytest

from lepton.errors import InvalidArgument
from lepton.inference.v1.model_pb2 import Lineage, ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization, OptimizationVariant
from lepton.names import OptimizationName, ProjectName
from services.inference.engine_trust import check_engines
from services.inference.optimizations.keys import optimizations
from tests.harness.memory_kv import MemoryKV

NAME = OptimizationName("acme", "digits", "o")
PACKAGE = f"sha256:{'a' * 64}"
ENGINE = "engines/aot-inductor_torch-2.13.0_cpu_fp32_a_b/model.pt2"


def version(*, optimization: str = str(NAME), package: str = PACKAGE, file: str = ENGINE) -> ModelVersion:
    return ModelVersion(
        package=package, files={"model.onnx": PACKAGE, file: PACKAGE}, lineage=Lineage(optimization=optimization)
    )


async def check(given: ModelVersion, project: str = "acme") -> None:
    async with MemoryKV() as kv:
        made = Optimization(name=str(NAME), variant_states=[OptimizationVariant(package=PACKAGE)])
        await optimizations(kv).create(NAME, made)
        await check_engines(kv, ProjectName(project), given)


async def test_what_an_optimisation_made_is_trusted() -> None:
    await check(version())


async def test_a_package_without_engines_needs_no_trust() -> None:
    await check(version(optimization="", file="model.pt2"))


@pytest.mark.parametrize(
    "given",
    [
        version(optimization=""),
        version(optimization="projects/acme/models/digits/optimizations/other"),
        version(optimization="../../x"),
        version(package=f"sha256:{'b' * 64}"),
    ],
)
async def test_an_engine_that_no_optimisation_made_is_refused(given: ModelVersion) -> None:
    with pytest.raises(InvalidArgument, match="only `lepton models optimize`"):
        await check(given)


async def test_another_projects_optimisation_vouches_for_nothing() -> None:
    with pytest.raises(InvalidArgument):
        await check(version(), project="rival")
