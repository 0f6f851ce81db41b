"""A training program that keeps a record of every sample that it uses and every loss; its arguments are in `main`.

The record of a rank is a file of JSON lines: {"ranks": n}, then {"step", "samples": [ids], "loss"} once a step is made,
and {"checkpoint": step} when one is begun. A line is one write, so a killed rank leaves whole lines.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lepton import train

FEATURES, CLASSES = 12, 5
HURRY = "hurry"  # once there is such a file among the records, steps take no longer than they have to


class Record:
    """The file of this rank."""

    def __init__(self, folder: Path) -> None:
        name = f"{train.session().environment.generation}.{train.rank()}.jsonl"
        self._file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, **line: Any) -> None:
        """One line, in one write."""
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Samples:
    """Made-up samples; a sample carries its own number, so that what is on record is what was used."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(11)
        self.rows = torch.randn(count, 1 + FEATURES, generator=generator, dtype=torch.float64)
        self.rows[:, 0] = torch.arange(count)
        self.labels = torch.randint(0, CLASSES, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)


def network() -> torch.nn.Module:
    """A small network in double precision: what differs by more than rounding shows."""
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 32), torch.nn.Tanh(), torch.nn.Linear(32, CLASSES)
    ).double()  # fmt: skip


def main() -> int:
    """Trains, in the way that the documentation tells users to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=90)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--every", type=int, default=4, help="steps between two checkpoints")
    parser.add_argument("--ballast", type=int, default=0, help="bytes more in a checkpoint, other ones every time")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a step takes longer")
    parser.add_argument("--fault", choices=["", "restart-epoch"], default="")
    arguments = parser.parse_args()
    gang, samples, record = train.session().gang, Samples(arguments.samples), Record(arguments.records)
    gang.join()
    record.add(ranks=train.world_size())
    model = network()
    parallel = DistributedDataParallel(model)
    parallel(samples.rows[:1, 1:]).sum().backward()  # DDP sums in another order from its second pass on
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer.zero_grad()
    position = 0
    if (saved := train.resume()) is not None:
        model.load_state_dict(saved.state["model"])
        optimizer.load_state_dict(saved.state["optimizer"])
        position = saved.position.samples
        if arguments.fault == "restart-epoch":
            position -= position % arguments.samples
    shares = train.shard(
        samples, batch_size=arguments.batch, epochs=arguments.epochs, seed=3, position=position
    )  # fmt: skip
    commit = None
    for batch in shares:
        rows = samples.rows[torch.from_numpy(batch.indices)]
        loss = functional.cross_entropy(
            parallel(rows[:, 1:]), samples.labels[torch.from_numpy(batch.indices)], reduction="sum"
        )
        (loss * (train.world_size() / batch.size)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if arguments.pause and not (arguments.records / HURRY).exists():
            time.sleep(arguments.pause)
        record.add(step=batch.step, samples=rows[:, 0].int().tolist(), loss=float(loss.detach()))
        train.report({"loss": float(loss.detach())}, step=batch.step, epoch=batch.epoch)
        stops = train.should_stop()
        is_last = batch.consumed == arguments.epochs * arguments.samples
        if batch.step % arguments.every == 0 or stops or is_last:
            state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            if arguments.ballast:
                state["ballast"] = {"bytes": torch.full((arguments.ballast,), batch.step % 251, dtype=torch.uint8)}
            record.add(checkpoint=batch.step)
            commit = train.checkpoint(
                state,
                step=batch.step,
                epoch=batch.epoch,
                samples=batch.consumed,
            )
        if stops and not is_last:
            assert commit is not None
            commit.wait()
            gang.leave()
            return train.EXIT_STOPPED
    if commit is not None:
        commit.wait()
    gang.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
