"""The placement benchmark: what it writes is legal, by a checker that reads its files alone; and how full it fills."""

import json
import os
from pathlib import Path
from random import Random

import pytest

from bench import openb, placement
from tests.bench.placement_check import Illegal, check

_SIZES = (*3 * ((0, 0), (1, 1000), (1, 1000), (1, 500), (1, 300), (1, 810), (2, 1000)), (8, 1000))
_DATA = Path(os.environ.get("LEPTON_TEST_DATA", "")) / "openb"
_NODES = "sn,cpu_milli,memory_mib,gpu,model\n"
_TASKS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
needs_openb = pytest.mark.skipif(
    not os.environ.get("LEPTON_TEST_DATA") or not _DATA.is_dir(), reason="LEPTON_TEST_DATA has no openb/"
)


def _sample(folder: Path, seed: int) -> tuple[Path, Path]:
    """A made-up cluster and tasks like those of the trace."""
    rng = Random(seed)
    print(f"{seed=}")
    nodes, pods = folder / "nodes.csv", folder / "pods.csv"
    kinds = [("A", 8, 96000, 400000), ("B", 4, 64000, 260000), ("C", 2, 16000, 120000), ("", 0, 32000, 100000)]
    with nodes.open("w") as file:
        file.write(_NODES)
        for at in range(60):
            model, gpu, cpu, memory = rng.choice(kinds)
            file.write(f"n{at},{cpu},{memory},{gpu},{model}\n")
    with pods.open("w") as file:
        file.write(_TASKS)
        for at in range(400):
            number, milli = rng.choice(
                [(0, 0), (1, 1000), (1, 1000), (1, 500), (1, 300), (1, 810), (2, 1000), (8, 1000)]
            )
            cpu = rng.choice([500, 1000, 4000]) * max(1, number)
            spec = rng.choice(["", "", "", "", "A", "B|C"]) if number else ""
            file.write(f"t{at},{cpu},{rng.choice([1024, 16384])},{number},{milli},{spec}\n")
    return nodes, pods


def _generate(nodes: Path, pods: Path, out: Path, seed: int) -> None:
    given = ["--generate", "--pods", str(pods), "--nodes", str(nodes), "--seed", str(seed), "--ratio", "1.3"]
    placement.main([*given, "--out", str(out)])


def _place(nodes: Path, arrivals: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    placement.main(["--nodes", str(nodes), "--arrivals", str(arrivals), "--assignments", str(out), "--json", "-"])
    figures: dict[str, float] = json.loads(capsys.readouterr().out)
    return figures


@pytest.mark.parametrize("seed", range(5))
def test_what_it_writes_is_legal_and_what_it_prints_is_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    nodes, pods = _sample(tmp_path, seed)
    arrivals, out, again = tmp_path / "arrivals.csv", tmp_path / "out.csv", tmp_path / "again.csv"
    _generate(nodes, pods, arrivals, seed)
    figures = _place(nodes, arrivals, out, capsys)
    found = check(nodes, arrivals, out)
    assert found == {key: figures[key] for key in found}
    assert figures["asked_pct"] >= 130
    assert 0 < figures["placed"] < figures["tasks"]
    assert figures["gpu_allocation_pct"] > 75
    _place(nodes, arrivals, again, capsys)
    assert again.read_bytes() == out.read_bytes(), "the same list is placed alike"


def test_a_task_is_placed_without_knowing_those_that_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, pods = _sample(tmp_path, 7)
    arrivals, some = tmp_path / "arrivals.csv", tmp_path / "some.csv"
    _generate(nodes, pods, arrivals, 7)
    lines = arrivals.read_text().splitlines(keepends=True)
    some.write_text("".join(lines[: len(lines) // 2]))
    _place(nodes, arrivals, tmp_path / "all.out", capsys)
    _place(nodes, some, tmp_path / "some.out", capsys)
    assert (tmp_path / "all.out").read_text().startswith((tmp_path / "some.out").read_text())


def test_arrivals_are_the_same_for_a_seed_and_differ_between_seeds(tmp_path: Path) -> None:
    nodes, pods = _sample(tmp_path, 1)
    for seed, name in ((42, "a"), (42, "b"), (43, "c")):
        _generate(nodes, pods, tmp_path / name, seed)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() != (tmp_path / "c").read_text()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("0,n,0", "asks for 2 devices"),
        ("0,n,0|0", "asks for 2 devices"),
        ("0,n,0|2", "asks for 2 devices"),
        ("1,n,0\n2,n,0", "device 0 of n is over-allocated"),
        ("3,n,0", "cpu_milli of n is over-allocated"),
        ("4,n,0", "accepts X"),
        ("1,n,0\n1,n,1", "placed before"),
        ("1,m,0", "no such task or node"),
    ],
)
def test_the_checker_refuses_what_is_not_legal(tmp_path: Path, row: str, words: str) -> None:
    (tmp_path / "n").write_text(f"{_NODES}n,1000,1000,2,Y\n")
    tasks = ["a,0,0,2,1000,", "b,0,0,1,600,", "c,0,0,1,600,", "d,1001,0,1,100,", "e,0,0,1,100,X"]
    (tmp_path / "t").write_text(_TASKS + "\n".join(tasks))
    (tmp_path / "o").write_text(f"task,node,devices\n{row}\n")
    with pytest.raises(Illegal, match=words):
        check(tmp_path / "n", tmp_path / "t", tmp_path / "o")


def test_the_columns_of_the_trace_mean_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(_TASKS + "a,500,2,0,0,X\nb,0,0,1,470,A|B\nc,0,0,8,1000,\n")
    none, share, whole = [task.demand() for task in openb.tasks(tmp_path / "t")]
    assert (none.device_milli, none.device_models, none.cpu_milli, none.memory_bytes) == (0, frozenset(), 500, 2 << 20)
    assert (share.device_milli, share.device_models) == (470, frozenset("AB"))
    assert whole.device_milli == 8000


@needs_openb
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_draws_of_the_trace_fill_the_cluster_as_far_as_the_best_that_was_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, pods = _DATA / "openb_node_list_gpu_node.csv", _DATA / "openb_pod_list_default.csv"
    found = []
    for seed in range(42, 52):
        _generate(nodes, pods, tmp_path / "arrivals.csv", seed)
        _place(nodes, tmp_path / "arrivals.csv", tmp_path / "out.csv", capsys)
        found.append(check(nodes, tmp_path / "arrivals.csv", tmp_path / "out.csv")["gpu_allocation_pct"])
    assert sum(found) / len(found) >= 95.4, found
