"""Which variants are tried, and which do not suit."""

import pytest

from lepton.errors import InvalidArgument
from lepton.models import Architecture
from services.inference.compress.students import student
from services.inference.compress.variants import VARIANTS, chosen, unsuitable


def test_of_no_names_all_that_the_machines_can_make() -> None:
    on_cpu = {variant.name for variant in chosen([], devices=())}
    assert {"graph", "int8-static", "pruned-int8", "sparse", "distilled", "aot-fp32"} <= on_cpu
    assert not any(VARIANTS[name].needs_device for name in on_cpu)
    assert {variant.name for variant in chosen([], devices=["H200"])} == set(VARIANTS)


def test_a_name_that_is_none_or_needs_a_device_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidArgument) as refused:
        chosen(["graph", "int4"], devices=())
    assert "'int4' is no variant" in str(refused.value.fields["optimization.variants[1]"])
    with pytest.raises(InvalidArgument) as refused:
        chosen(["tensorrt-fp16"], devices=())
    assert "H200" in str(refused.value.fields["optimization.device_models"])


def test_what_needs_a_module_or_samples_says_so() -> None:
    assert unsuitable(VARIANTS["int8-dynamic"], has_module=False, has_training=False) == ""
    assert "no recipe" in unsuitable(VARIANTS["pruned"], has_module=False, has_training=True)
    assert "--data" in unsuitable(VARIANTS["pruned"], has_module=True, has_training=False)
    assert unsuitable(VARIANTS["pruned"], has_module=True, has_training=True) == ""


def test_a_student_is_smaller_and_takes_and_gives_the_same() -> None:
    config = {"vocabulary": 256, "context": 32, "width": 60, "layers": 2, "heads": 4}
    small = student(Architecture(name="language_model", config=config), 0.5).config
    assert small["width"] % small["heads"] == 0
    assert small["width"] < 60
    assert (small["vocabulary"], small["context"]) == (256, 32)
