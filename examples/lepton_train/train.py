"""The same fit with Lepton's worker API: sharded, reported, and gone on with after any stop without losing a sample.

    lepton run --workers 2 --max-restarts 3 train.py --epochs 20

Kill a rank, drain its node, or change the number of workers: it goes on from its newest checkpoint. It runs alone
(`python train.py`) and under torchrun as well; nothing is reported or kept then.
"""

import argparse
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lepton import train


def main() -> int:
    """Trains to the end, or until it is asked to stop; the exit code says which."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=128, help="of all ranks together: the same at any world size")
    args = parser.parse_args()

    train.session().gang.join()
    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 1024).unsqueeze(1)
    y = torch.sin(x)
    model = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=args.lr)

    saved = train.resume()
    if saved is not None:
        model.load_state_dict(saved.state["model"])
        optimizer.load_state_dict(saved.state["optimizer"])

    keeps = bool(train.session().environment.artifacts)  # where checkpoints go; alone there is no such place
    position = saved.position.samples if saved is not None else 0
    for batch in train.shard(x, batch_size=args.batch_size, epochs=args.epochs, seed=1, position=position):
        # A sum over this rank's samples, over the size of the whole batch; DDP divides by the ranks, hence the factor.
        errors = torch.nn.functional.mse_loss(parallel(x[batch.indices]), y[batch.indices], reduction="sum")
        optimizer.zero_grad()
        (errors * train.world_size() / batch.size).backward()
        optimizer.step()
        train.report({"loss": errors.item() / max(len(batch.indices), 1)}, step=batch.step, epoch=batch.epoch)
        is_stopping = train.should_stop()
        if keeps and (is_stopping or batch.ends_epoch):
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            kept = train.checkpoint(state, step=batch.step, epoch=batch.epoch, samples=batch.consumed)
            if is_stopping:
                kept.wait()
        if is_stopping:
            return train.EXIT_STOPPED
    dist.barrier()
    train.session().reporter.drain()
    train.session().gang.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
