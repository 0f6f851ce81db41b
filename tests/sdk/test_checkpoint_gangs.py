"""Checkpoints of gangs: every rank writes its part, and any number of ranks loads them, as DTensors or whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lepton.artifacts import ArtifactStore
from lepton.errors import LeptonError
from lepton.train.checkpoints import Checkpoint, Position, Saver, gang_store
from lepton.train.checkpoints.forked import why
from lepton.train.environment import RankEnvironment
from lepton.train.reporter import Reporter
from tests.harness.saving import run_ranks

pytestmark = pytest.mark.integration

POSITION = Position(step=7, epoch=1, samples=700)
SHAPES = {"even": (8, 6), "odd": (7, 5), "few": (2, 3), "line": (11,), "empty": (0, 4)}


def whole(name: str, shift: float = 0.0) -> torch.Tensor:
    count = torch.Size(SHAPES[name]).numel()
    return torch.arange(count, dtype=torch.float32).reshape(SHAPES[name]) + shift


def saver(url: str, rank: int, world_size: int, **settings: Any) -> Saver:
    place = RankEnvironment.parse({"RANK": str(rank), "WORLD_SIZE": str(world_size)})
    return Saver(
        ArtifactStore(url), "acme", rank=rank, world_size=world_size, reporter=Reporter(None),
        connect=lambda: gang_store(place), **settings,
    )  # fmt: skip


def sharded_state(world_size: int, shift: float = 0.0) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (world_size,))
    tensors: dict[str, Any] = {name: distribute_tensor(whole(name, shift), mesh, [Shard(0)]) for name in SHAPES}
    tensors["columns"] = distribute_tensor(whole("even", shift), mesh, [Shard(1)])
    tensors["copies"] = distribute_tensor(whole("odd", shift), mesh, [Replicate()])
    return tensors


def save(rank: int, world_size: int, url: str, can_fork: bool) -> str:
    state = {
        "model": sharded_state(world_size),
        "plain": {f"p{n}": torch.full((n + 1, 1000), float(n)) for n in range(4)},
        "own": {f"of-{rank}": torch.tensor([rank]), "names": [f"n{rank}", "n"]},
        "step": 7,
    }
    commit = saver(url, rank, world_size, can_fork=can_fork).save(
        state, position=POSITION, metrics={}, config_digest="c"
    )
    for tensor in (*state["model"].values(), *state["plain"].values()):
        (tensor._local_tensor if isinstance(tensor, DTensor) else tensor).fill_(-1.0)  # training goes on
    commit.wait()
    return commit.digest


def reload(rank: int, world_size: int, url: str, digest: str) -> str:
    """Loads into shards of another world size, checks them and saves them again."""
    loaded = Checkpoint(ArtifactStore(url), "acme", digest)
    state = {"model": sharded_state(world_size, shift=-5000.0), "plain": {"p1": torch.zeros(2, 1000)}, "step": 0}
    loaded.load_into(state)
    for name in SHAPES:
        assert torch.equal(state["model"][name].full_tensor(), whole(name)), name
    assert torch.equal(state["model"]["columns"].full_tensor(), whole("even"))
    assert torch.equal(state["plain"]["p1"], torch.ones(2, 1000))
    assert state["step"] == 7
    commit = saver(url, rank, world_size).save(state, position=POSITION, metrics={}, config_digest="c")
    commit.wait()
    return commit.digest


@pytest.mark.parametrize("can_fork", [True, False], ids=["forked", "copied"])
def test_four_ranks_save_two_load_and_save_three_load(tmp_path: Path, can_fork: bool) -> None:
    url = f"file://{tmp_path}"
    first = run_ranks(4, save, url, can_fork)
    assert len(set(first)) == 1
    store = ArtifactStore(url)
    checkpoint = Checkpoint(store, "acme", first[0])
    assert checkpoint.manifest.world_size == 4
    assert checkpoint.position == POSITION
    state = checkpoint.state
    for name in SHAPES:
        assert torch.equal(state["model"][name], whole(name))
    assert [int(state["own"][f"of-{rank}"]) for rank in range(4)] == [0, 1, 2, 3]
    assert state["own"]["names"] == ["n0", "n", "n1", "n2", "n3"]
    assert (state["step"], float(state["plain"]["p3"][0, 0])) == (7, 3.0)
    second = run_ranks(2, reload, url, first[0])
    run_ranks(3, reload, url, second[0])


def test_what_all_ranks_hold_is_written_once_and_spread_over_them(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    (digest, *_) = run_ranks(4, save, url, True)
    manifest = Checkpoint(ArtifactStore(url), "acme", digest).manifest
    assert all(len(manifest.tensors[f"plain/p{n}"].pieces) == 1 for n in range(4))
    assert len({manifest.tensors[f"plain/p{n}"].pieces[0].file for n in range(4)}) == 4
    assert len(manifest.tensors["model/copies"].pieces) == 1


def disagree(rank: int, world_size: int, url: str) -> str:
    commit = saver(url, rank, world_size).save(
        {"w": torch.zeros(rank + 1)}, position=POSITION, metrics={}, config_digest=""
    )
    try:
        commit.wait()
    except LeptonError as error:
        return why(error)
    return ""


def test_ranks_that_disagree_about_a_tensor_all_learn_which(tmp_path: Path) -> None:
    for message in run_ranks(2, disagree, f"file://{tmp_path}"):
        assert "state.w is F32 [2] on rank 1 and F32 [1] on a lower one" in message


def mixed(rank: int, world_size: int, url: str) -> str:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    state = {
        "both": distribute_tensor(whole("even"), mesh, [Shard(0), Shard(1)]),
        "copied": distribute_tensor(whole("odd"), mesh, [Replicate(), Shard(0)]),
        "twice": distribute_tensor(whole("line"), mesh, [Shard(0), Shard(0)]),
    }
    commit = saver(url, rank, world_size).save(state, position=POSITION, metrics={}, config_digest="")
    commit.wait()
    dist.barrier()
    return commit.digest


def test_a_mesh_of_two_dimensions_is_saved_without_its_copies(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    (digest, *_) = run_ranks(4, mixed, url)
    checkpoint = Checkpoint(ArtifactStore(url), "acme", digest)
    assert torch.equal(checkpoint.read("both"), whole("even"))
    assert torch.equal(checkpoint.read("copied"), whole("odd"))
    assert torch.equal(checkpoint.read("twice"), whole("line"))
    assert len(checkpoint.manifest.tensors["copied"].pieces) == 2
