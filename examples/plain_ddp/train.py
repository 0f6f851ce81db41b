"""Fits a small network to the sine of a number, data-parallel, with nothing but torch.

torchrun --nproc-per-node 2 train.py --epochs 20
lepton run --workers 2 train.py --epochs 20
"""

import argparse
import os

import torch
import torch.distributed as dist
from model import Regressor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def main() -> None:
    """Trains, and prints the loss of every epoch on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=64, help="of each rank")
    parser.add_argument("--loaders", type=int, default=0, help="processes that load data, for each rank")
    parser.add_argument("--local-rank", type=int, default=int(os.environ.get("LOCAL_RANK", "0")))
    args = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    device = torch.device(f"cuda:{args.local_rank}" if on_gpu else "cpu")
    dist.init_process_group("nccl" if on_gpu else "gloo")
    torch.manual_seed(0)  # the same model on every rank, and the same data

    x = torch.linspace(-3, 3, 1024).unsqueeze(1)
    data = TensorDataset(x, torch.sin(x))
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data)
    batches = DataLoader(data, batch_size=args.batch_size, sampler=sampler, num_workers=args.loaders)
    model = DistributedDataParallel(Regressor().to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)

    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        total = torch.zeros(1, device=device)
        for inputs, targets in batches:
            loss = torch.nn.functional.mse_loss(model(inputs.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            print(f"epoch {epoch} loss {total.item() / len(batches) / dist.get_world_size():.5f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
