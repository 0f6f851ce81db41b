"""What can go wrong with a checkpoint: killed writers, full disks, damaged files. The one before it always stands."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from lepton.artifacts import CHECKPOINTS, ArtifactStore, verified
from lepton.errors import FailedPrecondition, Unavailable
from lepton.train.checkpoints import Checkpoint, Position, Saver, newest_whole, save
from lepton.train.checkpoints.forked import fork
from lepton.train.reporter import Reporter
from tests.harness.ranks import checkpointing
from tests.harness.saving import Ranks, ranks, run_ranks
from tests.harness.seeds import some_seed

pytestmark = pytest.mark.integration

SEED = some_seed()


def wait_for(condition: object, deadline_s: float = 60.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def loaded(url: str, digest: str) -> float:
    weights = Checkpoint(ArtifactStore(url), "acme", digest).state["model"]["w"]
    assert torch.equal(weights, weights[0].expand_as(weights)), "a mixture of several steps"
    return float(weights[0])


def told_so_far(gang: Ranks) -> list[tuple[str, int, str]]:
    found = []
    line = gang._ends[0]
    try:
        while line.poll(0):
            found.append(line.recv()[1])
    except EOFError:
        pass
    return found


def kill_somewhere(tmp_path: Path, moment: random.Random, number: int) -> None:
    """Kills the rank or its writing child at a random moment of its second or a later checkpoint."""
    url = f"file://{tmp_path}/{number}"
    with ranks(1, checkpointing.save_for_ever, url) as gang:
        told = [gang.told(0)]
        victim = gang.processes[0].pid
        assert victim is not None
        is_child = moment.random() < 0.5
        threading.Event().wait(moment.uniform(0, 0.1))
        if is_child:
            writers: list[int] = []
            wait_for(lambda: writers.extend(children_of(victim)) or writers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(writers[0], signal.SIGKILL)
            # Whatever became of that one, the rank goes on and the next one counts.
            told += [gang.told(0), gang.told(0), gang.told(0)]
            assert told[-1][0] == "written" or told[-2][0] == "written"
        os.kill(victim, signal.SIGKILL)
        gang.processes[0].join()
        told += told_so_far(gang)
    _, step, digest = [each for each in told if each[0] == "written"][-1]
    assert loaded(url, digest) == step
    # What is in the store under a name is whole, also what nobody was told of.
    store = ArtifactStore(url)
    for name, _ in store.listing("acme", area=CHECKPOINTS):
        store.verify("acme", name)
    wait_for(lambda: not left_after_sweep(store, tmp_path / str(number)))


def left_after_sweep(store: ArtifactStore, folder: Path) -> list[Path]:
    """Nothing, once the writer is really gone: the kernel kills it a moment after its parent."""
    store.sweep("acme", area=CHECKPOINTS)
    return list(folder.rglob(".writing-*"))


@pytest.mark.parametrize(
    "moments",
    [pytest.param(8), pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["8 moments", "50 moments"],
)
def test_killed_at_any_moment_the_newest_committed_checkpoint_loads(tmp_path: Path, moments: int) -> None:
    print(f"seed {SEED}")
    moment = random.Random(SEED)
    for number in range(moments):
        kill_somewhere(tmp_path, moment, number)


def test_negative_control_a_writer_in_place_loses_both(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    before = torch.full((400_000,), 1.0).numpy().tobytes()
    path.write_bytes(before)
    with ranks(1, checkpointing.write_in_place, str(path)) as gang:
        gang.told(0)
        gang.processes[0].kill()
        gang.processes[0].join()
    assert len(path.read_bytes()) < len(before)


def test_a_rank_without_space_fails_the_checkpoint_for_all_and_training_goes_on(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    (first, lines), (other, _) = run_ranks(2, checkpointing.run_out_of_space, url)
    assert first[1] == "rank 1: File too large"
    assert other[1] == "File too large"
    assert first[0] == other[0]
    assert first[2] == other[2]
    store = ArtifactStore(url)
    for step in (0, 2):
        state = Checkpoint(store, "acme", first[step]).state
        assert [float(state[f"w{rank}"][0]) for rank in range(2)] == [step + 1.0, step + 1.0]
    failed = [line for line in lines if line["kind"] == "checkpoint_failed"]
    assert [line["why"] for line in failed] == ["the checkpoint at step 2: rank 1: File too large"]
    assert [line["step"] for line in lines if line["kind"] == "checkpoint"] == [1, 3]
    assert list(tmp_path.rglob(".writing-*")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root; the limit on file sizes is tested above")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore(f"file://{small_disk}")
    saver = Saver(store, "acme", rank=0, world_size=1, reporter=Reporter(None))
    digests = []
    for step, elements in ((1, 200_000), (2, 400_000), (3, 1000)):
        commit = saver.save(
            {"model": {"w": torch.full((elements,), float(step))}},
            position=Position(step=step, epoch=0, samples=0), metrics={}, config_digest="",
        )  # fmt: skip
        if step == 2:
            with pytest.raises(Unavailable, match="No space left on device"):
                commit.wait()
            assert list(small_disk.rglob(".writing-*")) == []
        else:
            commit.wait()
            digests.append(commit.digest)
    assert [loaded(store.url, digest) for digest in digests] == [1.0, 3.0]
    assert "the checkpoint at step 2: No space left on device" in capfd.readouterr().err


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactStore, str, str]:
    store = ArtifactStore(f"file://{tmp_path_factory.mktemp('two')}")
    digests = [
        save(store, "acme", {"model": {"w": torch.full((999,), float(step))}, "step": step},
             position=Position(step=step, epoch=0, samples=0))
        for step in (1, 2)
    ]  # fmt: skip
    return store, digests[0], digests[1]


def files_of(store: ArtifactStore, digest: str) -> list[Path]:
    names = [digest, *(file.digest for file in Checkpoint(store, "acme", digest).manifest.files)]
    root = Path(store.url.removeprefix("file://"))
    return [next(root.rglob(name.removeprefix("sha256:"))) for name in names]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_noticed_and_the_one_before_is_used(
    two: tuple[ArtifactStore, str, str], data: st.DataObject
) -> None:
    store, older, newest = two
    path = data.draw(st.sampled_from(files_of(store, newest)))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "missing"]))
    problems: list[str] = []
    try:
        if damage == "flip":
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        elif damage == "cut":
            path.write_bytes(content[:place])
        else:
            path.unlink()
        found = newest_whole(store, "acme", [newest, older], damaged=problems.append)
        assert (found.digest, found.state["step"]) == (older, 1)
        assert len(problems) == 1
        assert newest in problems[0]
        assert path.name in problems[0]
        with pytest.raises(FailedPrecondition, match="NO_CHECKPOINT_WHOLE"):
            newest_whole(store, "acme", [newest])
    finally:
        path.write_bytes(content)
    assert newest_whole(store, "acme", [newest, older]).digest == newest


def damaged_share(rank: int, world_size: int, url: str, newest: str, older: str) -> str:
    from lepton.train.checkpoints import gang_store
    from lepton.train.environment import RankEnvironment

    place = RankEnvironment.parse({"RANK": str(rank), "WORLD_SIZE": str(world_size)})
    found = newest_whole(
        ArtifactStore(url), "acme", [newest, older], rank=rank, world_size=world_size, gang=gang_store(place)
    )
    return found.digest


def test_ranks_agree_on_the_older_one_when_only_one_of_them_has_seen_the_damage(
    two: tuple[ArtifactStore, str, str],
) -> None:
    store, older, newest = two
    path = files_of(store, newest)[1]
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert run_ranks(2, damaged_share, store.url, newest, older) == [older, older]
    finally:
        path.write_bytes(content)
    assert run_ranks(2, damaged_share, store.url, newest, older) == [newest, newest]


def test_a_file_is_hashed_once_on_a_node_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "_SHARED", tmp_path)
    monkeypatch.setattr(verified, "_SETTLED_S", -1.0)
    hashed: list[int] = []
    digest_file = verified.hashlib.file_digest

    def counted(file: object, name: str) -> object:
        hashed.append(1)
        return digest_file(file, name)  # type: ignore[arg-type]

    store = ArtifactStore(f"file://{tmp_path}/store")
    digest = store.put_bytes("acme", b"weights")
    monkeypatch.setattr(verified.hashlib, "file_digest", counted)
    for _ in range(3):
        assert bytes(store.mapped("acme", digest)) == b"weights"
    assert len(hashed) == 1
    path = next((tmp_path / "store").rglob(digest.removeprefix("sha256:")))
    path.write_bytes(b"Weights")
    with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
        store.mapped("acme", digest)


def test_a_writer_dies_with_its_rank(tmp_path: Path) -> None:
    with ranks(1, checkpointing.save_for_ever, f"file://{tmp_path}") as gang:
        gang.told(0)
        rank = gang.processes[0].pid
        assert rank is not None
        writers: list[int] = []
        wait_for(lambda: writers.extend(children_of(rank)) or writers)
        os.kill(rank, signal.SIGKILL)
        gang.processes[0].join()
        wait_for(lambda: not any(is_running(writer) for writer in writers))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_writer_that_is_stuck_is_killed_and_the_checkpoint_failed() -> None:
    child = fork(lambda board, publish, progress: str(threading.Event().wait()))
    with pytest.raises(Unavailable, match="no progress"):
        child.result(None, lambda written: None, silent_s=0.2)  # type: ignore[arg-type]
    assert not is_running(child.pid)


def test_forking_beside_threads_of_grpc_hangs_neither_side(tmp_path: Path) -> None:
    (answered,) = run_ranks(1, checkpointing.save_beside_grpc, f"file://{tmp_path}", 20)
    assert answered > 0


def test_a_version_1_checkpoint_still_loads(tmp_path: Path) -> None:
    import json

    from safetensors.torch import save as save_tensors

    store = ArtifactStore(f"file://{tmp_path}")
    contents = {
        "model.safetensors": save_tensors({"model/w": torch.arange(6.0).reshape(2, 3), "model/n": torch.tensor(3)}),
        "tree.json": json.dumps(
            {"model": {"map": [["w", {"tensor": "model/w"}], ["n", {"tensor": "model/n"}]]}, "note": {"value": "x"}}
        ).encode(),
    }
    document = {
        "format": "lepton.checkpoint/1", "step": 4, "epoch": 1, "samples": 9, "world_size": 2, "config_digest": "c",
        "files": [
            {"name": name, "digest": store.put_bytes("acme", data), "size": len(data)}
            for name, data in contents.items()
        ],
    }  # fmt: skip
    found = Checkpoint(store, "acme", store.put_bytes("acme", json.dumps(document).encode()))
    assert found.position == Position(step=4, epoch=1, samples=9)
    assert found.state["note"] == "x"
    assert torch.equal(found.state["model"]["w"], torch.arange(6.0).reshape(2, 3))
    template = {"model": {"w": torch.zeros(2, 3)}}
    found.load_into(template)
    assert torch.equal(template["model"]["w"], found.read("model/w"))
