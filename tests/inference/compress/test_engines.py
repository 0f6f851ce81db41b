"""An engine's key holds all that it depends on, and is read out of a package's files."""

import pytest

from lepton.errors import InvalidArgument
from services.inference.compress.engines import EngineKey, Shape, keys
from services.inference.compress.variants import EngineKind, Precision

MODEL, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SHAPES = (Shape(input="x", least=(1, 1, 8, 8), usual=(8, 1, 8, 8), most=(64, 1, 8, 8)),)
H200 = "NVIDIA H200 sm90"
TRT, AOT = EngineKind.TENSORRT, EngineKind.AOT_INDUCTOR


def key(kind: EngineKind = TRT, version: str = "10.13.0", device: str = H200, **given: object) -> EngineKey:
    known = {"precision": Precision.FP16, "model": MODEL, "shapes": SHAPES, **given}
    return EngineKey.of(kind, version=version, device=device, **known)  # type: ignore[arg-type]


def test_a_key_is_a_folder_of_a_package_and_comes_back_from_it() -> None:
    made = key()
    assert EngineKey.parse(str(made)) == made
    assert made.file == f"engines/{made}/model.plan"
    assert key(AOT, "torch-2.13.0+cu130").file.endswith("/model.pt2")
    assert keys([made.file, "model.onnx", "engines/x/model.plan", f"engines/{made}/timing.cache"]) == (made,)
    with pytest.raises(InvalidArgument):
        EngineKey.parse("../../etc")


@pytest.mark.parametrize(
    "other",
    [
        key(version="10.13.1"),
        key(device="NVIDIA H100 80GB HBM3 sm90"),
        key(precision=Precision.FP32),
        key(model=OTHER),
        key(shapes=(Shape(input="x", least=(1, 1, 8, 8), usual=(8, 1, 8, 8), most=(32, 1, 8, 8)),)),
        key(AOT, "torch-2.13.0"),
    ],
)
def test_whatever_an_engine_depends_on_makes_another_key(other: EngineKey) -> None:
    assert str(other) != str(key())


@pytest.mark.parametrize("most", [(0, 1, 8, 8), (1, 1, 8), (4, 1, 8, 8)])
def test_a_profile_rises_from_least_to_most(most: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="shapes"):
        Shape(input="x", least=(1, 1, 8, 8), usual=(8, 1, 8, 8), most=most)
