"""`lepton models optimize`: what its options mean, and what it shows."""

import json

import numpy as np
import pytest
import typer
from rich.console import Console
from safetensors.numpy import save

from lepton.cli.optimization_board import show
from lepton.cli.optimize import parse_drop, parse_size
from lepton.cli.output import Form, Printer
from lepton.cli.shell import Shell, Wishes
from lepton.errors import InvalidArgument
from lepton.golden import tolerances
from lepton.inference.v1.optimization_pb2 import Measurement, Optimization, OptimizationRule, OptimizationVariant


@pytest.mark.parametrize(("text", "part"), [("0.5%", 0.005), ("0.005", 0.005), ("0", 0.0), ("5 %", 0.05), ("0.1", 0.1)])
def test_a_drop_is_percent_or_a_part(text: str, part: float) -> None:
    assert parse_drop(text) == pytest.approx(part)


@pytest.mark.parametrize("text", ["0.5", "5", "-1%", "101%", "little", ""])
def test_a_drop_that_could_be_meant_either_way_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="max-accuracy-drop"):
        parse_drop(text)


@pytest.mark.parametrize(
    ("text", "ratio", "size"),
    [("50%", 0.5, 0), ("200kB", 0, 200_000), ("2MiB", 0, 2 << 20), ("1024", 0, 1024), ("", 0, 0)],
)
def test_a_size_is_a_part_of_the_original_or_bytes(text: str, ratio: float, size: int) -> None:
    rule = OptimizationRule()
    parse_size(text, rule)
    assert (rule.max_size_ratio, rule.max_bytes) == (ratio, size)


@pytest.mark.parametrize("text", ["0%", "150%", "big", "2XB", "1.2.3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="max-size"):
        parse_size(text, OptimizationRule())


def searched() -> Optimization:
    original = Measurement(bytes=1000, latency_p50_us=100, throughput=1000, accuracy=0.98, measure="accuracy")
    small = Measurement(bytes=250, latency_p50_us=50, throughput=4000, accuracy=0.978, accuracy_drop=0.002)
    wrong = Measurement(bytes=100, latency_p50_us=25, throughput=8000, accuracy=0.9, accuracy_drop=0.08)
    variants = [
        OptimizationVariant(
            variant="pruned",
            state=OptimizationVariant.REFUSED,
            measurement=wrong,
            original=original,
            message="accuracy falls by 8.00 %, 0.5 % are allowed",
        ),
        OptimizationVariant(
            variant="int8-static",
            state=OptimizationVariant.ACCEPTED,
            measurement=small,
            original=original,
            is_proposed=True,
            is_pareto=True,
        ),
    ]
    return Optimization(
        name="projects/acme/models/digits/optimizations/o",
        state=Optimization.SUCCEEDED,
        message="int8-static has the best latency",
        original=original,
        variant_states=variants,
        proposed="int8-static",
    )


def shown(form: Form, capsys: pytest.CaptureFixture[str]) -> str:
    shell = Shell(Wishes(output=form))
    shell.printer = Printer(form, Console(highlight=False, soft_wrap=True))
    show(shell, searched())
    return capsys.readouterr().out


def test_the_table_marks_the_proposed_one_and_shows_the_refused_with_its_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = shown(Form.TABLE, capsys).splitlines()
    assert lines[0].split()[:6] == ["VARIANT", "STATE", "SIZE", "P50", "US", "P99"]
    (proposed,) = (line for line in lines if line.startswith("*"))
    assert "int8-static" in proposed
    assert "250 (25%)" in proposed
    assert "50 (2.00x)" in proposed
    (refused,) = (line for line in lines if "REFUSED" in line)
    assert "8.00%" in refused
    assert "0.5 % are allowed" in refused
    assert lines.index(proposed) < lines.index(refused)
    assert lines[-1] == "SUCCEEDED: int8-static has the best latency"


def test_as_json_it_is_the_resource(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(shown(Form.JSON, capsys))
    assert document["proposed"] == "int8-static"
    assert document["variant_states"][0]["measurement"]["accuracy_drop"] == 0.08


def test_a_golden_file_may_say_how_far_answers_may_be_off() -> None:
    tensors = {"x": np.zeros(2, np.float32)}
    assert tolerances(save(tensors)) == {}
    assert tolerances(save(tensors, metadata={"lepton.golden": '{"absolute": 0.25}'})) == {"absolute": 0.25}
    for wrong in ('{"absolute": -1}', '{"absolute": "inf"}', '{"never": 1}', "[", '{"absolute": "x"}'):
        with pytest.raises(InvalidArgument, match="GOLDEN_INVALID"):
            tolerances(save(tensors, metadata={"lepton.golden": wrong}))
