"""One rank's part in writing a checkpoint: say what it holds, learn what it writes, write it; rank 0 binds it together.

On the board, below the checkpoint's number:

    holds/<rank>    rank -> 0     the tree of its state and what it holds of each tensor
    writes/<rank>   0 -> rank     the paths that it writes
    wrote/<rank>    rank -> 0     its file and where each piece lies in it
    outcome         0 -> all      the manifest's digest, once the job has accepted it

Each of them may be `{"failed": why}` instead. The same code runs in a forked child, in a thread and in the foreground.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lepton.artifacts import Draft, Written
from lepton.errors import FailedPrecondition
from lepton.train.checkpoints.assignment import Held, assign
from lepton.train.checkpoints.exchange import Board
from lepton.train.checkpoints.manifest import TREE, File, Manifest, Piece, Position, StoredTensor
from lepton.train.checkpoints.memory import Holding
from lepton.train.checkpoints.shard_file import write_shard
from lepton.train.checkpoints.tree import Node, merge

_MEET_S: Final = 600.0  # ranks come to a checkpoint at the same step, but a rank may evaluate alone before
_WRITE_S: Final = 3600.0

Publish = Callable[[Written], None]
Progress = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one rank writes of a checkpoint, and with what; made before the fork."""

    number: int
    rank: int
    world_size: int
    position: Position
    config_digest: str
    tree: Node
    holdings: Mapping[str, Holding]
    shard: Draft
    ends: tuple[Draft, Draft] | None  # of rank 0: for the tree and the manifest


@dataclass(frozen=True, slots=True)
class Plan:
    """Which pieces this rank writes; rank 0 also knows the whole."""

    paths: list[str]
    tree: Node | None = None
    tensors: Mapping[str, Held] | None = None


def keys(number: int, world_size: int) -> list[str]:
    """Every key of a checkpoint on the board."""
    each = [f"{number}/{kind}/{rank}" for kind in ("holds", "writes", "wrote") for rank in range(world_size)]
    return [*each, f"{number}/outcome"]


def plan(task: Task, board: Board) -> Plan:
    """Agrees with the other ranks on who writes what. Raises LeptonError when they cannot."""
    held = {path: _held(holding) for path, holding in task.holdings.items()}
    if task.rank != 0:
        post(board, f"{task.number}/holds/{task.rank}", {"tree": task.tree, "held": _listed(held)})
        return Plan(take(board, f"{task.number}/writes/{task.rank}", 2 * _MEET_S)["paths"])
    ranks, trees = [held], [task.tree]
    for rank in range(1, task.world_size):
        told = take(board, f"{task.number}/holds/{rank}", _MEET_S)
        ranks.append({path: Held.from_json(each) for path, each in told["held"].items()})
        trees.append(told["tree"])
    chosen = assign(ranks)
    for rank, paths in enumerate(chosen[1:], 1):
        post(board, f"{task.number}/writes/{rank}", {"paths": paths})
    tensors: dict[str, Held] = {}
    for each in ranks:
        tensors = each | tensors
    return Plan(chosen[0], merge(trees), tensors)


def write(task: Task, agreed: Plan, board: Board, publish: Publish, progress: Progress = lambda: None) -> str:
    """Writes this rank's file; on rank 0 waits for the others', writes the manifest and returns its digest.

    Raises OSError and LeptonError; nothing then names what was written.
    """
    name = f"{task.number}/wrote/{task.rank}"
    placed = write_shard(task.shard, task.holdings, agreed.paths, progress)
    written = _finished(task.shard, publish)
    own = {
        "digest": written.digest, "size": written.size,
        "pieces": [[one.path, one.begin, one.offset, one.shape] for one in placed],
    }  # fmt: skip
    if task.rank != 0:
        post(board, name, own)
        return ""
    assert task.ends is not None
    assert agreed.tree is not None
    told = [own, *(take(board, f"{task.number}/wrote/{rank}", _WRITE_S) for rank in range(1, task.world_size))]
    tree, manifest = task.ends
    tree.write(json.dumps(agreed.tree, separators=(",", ":")).encode())
    document = _bound(task, agreed.tensors or {}, told, _finished(tree, publish))
    manifest.write(document.render())
    return _finished(manifest, publish).digest


def abandon(task: Task) -> None:
    """Removes what was half written."""
    for draft in (task.shard, *(task.ends or ())):
        draft.abandon()


def post(board: Board, key: str, document: Mapping[str, Any]) -> None:
    """Puts a document on the board."""
    board.post(key, zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1))


def take(board: Board, key: str, timeout_s: float) -> dict[str, Any]:
    """A document from the board; FailedPrecondition when its rank has failed."""
    document: dict[str, Any] = json.loads(zlib.decompress(board.take(key, timeout_s)))
    if "failed" in document:
        raise FailedPrecondition("CHECKPOINT_NOT_WRITTEN", why=str(document["failed"]))
    return document


def _finished(draft: Draft, publish: Publish) -> Written:
    written = draft.finish()
    publish(written)
    return written


def _held(holding: Holding) -> Held:
    return Held(
        dtype=holding.dtype, shape=holding.shape, offset=holding.offset, box=holding.box, is_shard=holding.is_shard
    )


def _listed(held: Mapping[str, Held]) -> dict[str, Any]:
    return {path: each.to_json() for path, each in held.items()}


def _bound(task: Task, tensors: Mapping[str, Held], told: Sequence[Mapping[str, Any]], tree: Written) -> Manifest:
    files = [
        File(name=f"rank-{rank}.safetensors", digest=each["digest"], size=each["size"])
        for rank, each in enumerate(told)
    ]
    pieces: dict[str, list[Piece]] = {path: [] for path in tensors}
    for rank, each in enumerate(told):
        for path, begin, offset, shape in each["pieces"]:
            pieces[path].append(Piece(file=rank, begin=begin, offset=tuple(offset), shape=tuple(shape)))
    return Manifest(
        position=task.position,
        world_size=task.world_size,
        config_digest=task.config_digest,
        files=(*files, File(name=TREE, digest=tree.digest, size=tree.size)),
        tensors={
            path: StoredTensor(
                dtype=held.dtype, shape=held.shape, pieces=tuple(sorted(pieces[path], key=lambda one: one.offset))
            )
            for path, held in tensors.items()
        },
    )
