"""The script that is trained by ours and by torchrun alike: DDP of a small network over gloo, timed by itself.

`ddp.py --marks FOLDER [--steps N] [--report-every N] [--checkpoint-every N]`. Each rank leaves a file of JSON lines,
{"step", "at": CLOCK_MONOTONIC, "cpu": seconds of this process, "restarts", "pid", "rank"}. With an agent it also
reports and saves through lepton.train, and goes on where it was saved; without one it is a plain torch script.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    """Trains on made-up samples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--marks", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--report-every", type=int, default=10)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    has_agent = "LEPTON_REPORT_FD" in os.environ
    if has_agent:
        from lepton import train
    torch.manual_seed(0)
    width = arguments.width
    model = torch.nn.Sequential(
        torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )  # fmt: skip
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    done = 0
    if has_agent and (saved := train.resume()) is not None:
        model.load_state_dict(saved.state["model"])
        optimizer.load_state_dict(saved.state["optimizer"])
        done = saved.position.step
    samples, labels = torch.randn(arguments.batch, width), torch.randint(0, 10, (arguments.batch,))
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    name = f"{rank}.{os.getpid()}.jsonl"
    with (arguments.marks / name).open("w", buffering=1) as marks:
        for step in range(done + 1, arguments.steps + 1):
            loss = functional.cross_entropy(parallel(samples), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            optimizer.zero_grad()
            mark = {"step": step, "at": time.monotonic(), "cpu": time.process_time(), "restarts": restarts}
            marks.write(json.dumps({**mark, "pid": os.getpid(), "rank": rank}) + "\n")
            if not has_agent:
                continue
            if step % arguments.report_every == 0:
                train.report({"loss": float(loss.detach())}, step=step, progress=step / arguments.steps)
                if train.should_stop():
                    sys.exit(train.EXIT_STOPPED)
            if arguments.checkpoint_every and step % arguments.checkpoint_every == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                train.checkpoint(state, step=step, samples=step * arguments.batch)
    dist.barrier()
    if has_agent:
        train.session().reporter.drain()


if __name__ == "__main__":
    main()
