"""`--serve FIELD=VALUE`: what is typed, and what is refused in words."""

import pytest
import typer

from lepton.cli.serving_options import serving
from lepton.inference.v1.serving_options_pb2 import ServingOptions


def test_nothing_given_asks_for_nothing() -> None:
    assert serving(()) is None


def test_values_lists_names_and_parts() -> None:
    made = serving(
        [
            "max_batch_size=16",
            "engine=TENSORRT",
            "preferred_batch_sizes=[4, 16]",
            "queue.timeout_us=5000",
            "shared=true",
        ]
    )
    assert made is not None
    assert (made.max_batch_size, made.engine, made.shared) == (16, ServingOptions.TENSORRT, True)
    assert list(made.preferred_batch_sizes) == [4, 16]
    assert made.queue.timeout_us == 5000


@pytest.mark.parametrize("given", [["instances"], ["nothing=1"], ["instances=many"], ["queue=1", "queue.timeout_us=2"]])
def test_what_is_no_option_is_refused(given: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        serving(given)
