"""Checkpoints: a state comes back bit for bit, every byte is verified, nothing is pickled."""

from pathlib import Path

import pytest
import torch

from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.train.checkpoints import Manifest, Position, load, save

POSITION = Position(step=7, epoch=1, samples=700)


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.rand(8, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def put(store: ArtifactStore, **state: object) -> str:
    return save(store, "acme", state, position=POSITION, config_digest="sha256:" + "a" * 64)


def test_model_and_optimizer_come_back_bit_for_bit(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}")
    model, optimizer = trained()
    loaded = load(store, "acme", put(store, model=model.state_dict(), optimizer=optimizer.state_dict(), note="x"))
    assert (loaded.position, loaded.manifest.world_size) == (POSITION, 1)
    assert loaded.state["note"] == "x"
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state["model"][name], tensor)
    again = torch.optim.AdamW(model.parameters(), lr=1.0)
    again.load_state_dict(loaded.state["optimizer"])
    assert again.param_groups[0]["lr"] == 0.01
    assert again.param_groups[0]["betas"] == (0.9, 0.999)
    for parameter in model.parameters():
        assert torch.equal(again.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])


def test_equal_states_have_equal_digests(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}")
    model, _ = trained()
    assert put(store, model=model.state_dict()) == put(store, model=model.state_dict())


def test_the_manifest_names_files_sizes_and_position(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}")
    model, optimizer = trained()
    manifest = Manifest.parse(
        store.read("acme", put(store, model=model.state_dict(), optimizer=optimizer.state_dict()))
    )
    assert [file.name for file in manifest.files] == ["rank-0.safetensors", "tree.json"]
    assert all(store.size("acme", file.digest) == file.size for file in manifest.files)
    assert manifest.config_digest == "sha256:" + "a" * 64


def test_a_lost_or_damaged_file_is_found_on_loading(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}")
    model, _ = trained()
    digest = put(store, model=model.state_dict())
    hexadecimal = Manifest.parse(store.read("acme", digest)).files[0].digest.removeprefix("sha256:")
    path = tmp_path / "acme" / "checkpoints" / "sha256" / hexadecimal[:2] / hexadecimal
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
        load(store, "acme", digest).state  # noqa: B018
    path.unlink()
    with pytest.raises(NotFound):
        load(store, "acme", digest).state  # noqa: B018


def test_an_object_that_only_pickle_could_keep_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        put(ArtifactStore(f"file://{tmp_path}"), model={"a": [1, object()]})
    assert list(caught.value.fields) == ["state.model/a/1"]


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}")
    with pytest.raises(InvalidArgument, match="CHECKPOINT_INVALID"):
        load(store, "acme", store.put_bytes("acme", b'{"format": "other/1"}'))
