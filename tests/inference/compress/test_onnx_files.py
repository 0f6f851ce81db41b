"""What is done to ONNX files keeps what they compute, and makes them as small as it says."""

import numpy as np
import pytest
import torch
from onnx import load_from_string, numpy_helper

from lepton import models
from lepton.golden import Array
from lepton.models import Architecture, ModelPackage, Signature, Tensor
from services.inference.compress import onnx_files
from services.inference.compress.export_onnx import to_onnx
from services.inference.compress.judging import Measure, answers, judge
from services.inference.compress.samples import Part
from services.inference.compress.variants import Precision

pytestmark = pytest.mark.integration

ARCHITECTURE = Architecture(
    name="language_model", config={"vocabulary": 64, "context": 16, "width": 64, "layers": 1, "heads": 4}
)


@pytest.fixture(scope="module")
def model() -> tuple[bytes, Part, Array]:
    """An exported transformer, inputs, and what torch answers to them."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    module = models.build(ARCHITECTURE).eval()
    x = torch.randint(0, 64, (32, 16))
    with torch.no_grad():
        logits = module(x)
    signature = Signature(
        inputs=(Tensor(name="x", datatype="INT64", shape=(-1, 16)),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 16, 64)),),
    )
    package = ModelPackage(architecture=ARCHITECTURE, files={}, signature=signature, metrics={}, lineage={})
    return to_onnx(module, package, {"x": x}), Part(inputs={"x": x.numpy()}), logits.numpy()


def run(model: bytes, part: Part) -> Array:
    return answers(onnx_files.runner(model, ["logits"]), part)


def test_the_optimised_graph_answers_the_same(model: tuple[bytes, Part, Array]) -> None:
    onnx, part, expected = model
    optimised = onnx_files.optimised(onnx)
    np.testing.assert_allclose(run(optimised, part), expected, rtol=1e-4, atol=1e-4)
    assert len(load_from_string(optimised).graph.node) < len(load_from_string(onnx).graph.node)


@pytest.mark.parametrize(("precision", "tolerance"), [(Precision.FP16, 2e-3), (Precision.BF16, 2e-2)])
def test_half_precision_halves_the_file(
    model: tuple[bytes, Part, Array], precision: Precision, tolerance: float
) -> None:
    onnx, part, expected = model
    halved = onnx_files.halved(onnx, precision)
    assert len(halved) < 0.56 * len(onnx)
    assert onnx_files.count(halved) == pytest.approx(onnx_files.count(onnx), rel=1e-3)
    given = run(halved, part)
    assert 0 < np.abs(given - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("precision", [Precision.INT8_DYNAMIC, Precision.INT8_STATIC])
def test_int8_is_a_third_of_the_file_and_gives_nearly_the_same_answers(
    model: tuple[bytes, Part, Array], precision: Precision
) -> None:
    onnx, part, expected = model
    quantised = onnx_files.quantised(onnx, precision, part)
    assert len(quantised) < 0.45 * len(onnx)
    given = run(quantised, part)
    # The tokens' answers of an untrained model differ by little, so that of the numbers themselves most must be kept.
    assert judge(given, expected, part, Measure.FIDELITY).accuracy > 0.98


def test_zeros_compress_and_are_counted(model: tuple[bytes, Part, Array]) -> None:
    onnx, _, _ = model
    thinned = load_from_string(onnx)
    for tensor in thinned.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.size > 1000:
            values[np.abs(values) < np.quantile(np.abs(values), 0.9)] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    sparse = thinned.SerializeToString()
    whole, nonzero = onnx_files.count(sparse)
    assert whole == onnx_files.count(onnx)[0]
    assert nonzero < 0.15 * whole < 0.15 / 0.99 * onnx_files.count(onnx)[1]
    assert len(sparse) == pytest.approx(len(onnx), rel=0.01)  # the file itself is as large as before
    assert onnx_files.compressed(sparse) < 0.3 * onnx_files.compressed(onnx)


def test_agreement_and_accuracy_count_answers_and_nan_is_no_answer() -> None:
    original = np.array([[0.0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    given = np.array([[0.0, 1], [1, 0], [0, 1], [np.nan, 0]], np.float32)
    part = Part(inputs={"x": original}, labels=np.array([1, 1, 1, 0]))
    assert judge(given, original, part, Measure.AGREEMENT).accuracy == 0.5
    assert judge(given, original, part, Measure.ACCURACY).accuracy == 0.5
    assert judge(original, original, part, Measure.FIDELITY).accuracy == 1
    assert judge(given, original, part, Measure.FIDELITY).accuracy == 0
    heads = judge(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), part, Measure.AGREEMENT, heads=(2, 2))
    assert (heads.accuracy, heads.evaluated) == (1, 8)
