"""The script of the GPU part: a small GPT in bfloat16, compiled, over NCCL; the same loop for ours and for torchrun.

`gpt.py --marks FOLDER [--steps N] [--checkpoint-every N] ..`. Marks as those of ddp.py, and beside them `facts.json`:
parameters, tokens a step of a rank, floating-point operations a token, the device.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lepton.models.language_model import language_model
from lepton.models.settings import LanguageModelConfig


def main() -> None:
    """Trains on made-up tokens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--marks", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--report-every", type=int, default=10)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    arguments = parser.parse_args()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    rank, has_agent = dist.get_rank(), "LEPTON_REPORT_FD" in os.environ
    if has_agent:
        from lepton import train
    torch.manual_seed(0)
    config = LanguageModelConfig(
        vocabulary=arguments.vocabulary, context=arguments.context, width=arguments.width, layers=arguments.layers,
        heads=arguments.width // 64,
    )  # fmt: skip
    model = language_model(config).to(device)
    weights = sum(each.numel() for each in model.parameters())
    parallel = torch.compile(DistributedDataParallel(model, device_ids=[device.index]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    shape = (arguments.batch, arguments.context)
    tokens = torch.randint(0, arguments.vocabulary, shape, device=device)
    if rank == 0:
        # 6 for each weight and token, 12 for each layer, width and place attended to: Chowdhery et al., PaLM, app. B.
        attention = 12 * arguments.layers * arguments.width * arguments.context
        facts = {"parameters": weights, "tokens_per_rank": tokens.numel(), "flops_per_token": 6 * weights + attention}
        (arguments.marks / "facts.json").write_text(json.dumps({**facts, "device": torch.cuda.get_device_name(device)}))
    with (arguments.marks / f"{rank}.{os.getpid()}.jsonl").open("w", buffering=1) as marks:
        for step in range(1, arguments.steps + 1):
            with torch.autocast("cuda", torch.bfloat16):
                scores = parallel(tokens)
                loss = functional.cross_entropy(scores.view(-1, arguments.vocabulary), tokens.view(-1))
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize(device)
            mark = {"step": step, "at": time.monotonic(), "cpu": time.process_time(), "restarts": 0}
            marks.write(json.dumps({**mark, "pid": os.getpid(), "rank": rank}) + "\n")
            if has_agent and step % arguments.report_every == 0:
                train.report({"loss": float(loss.detach())}, step=step, progress=step / arguments.steps)
            if has_agent and arguments.checkpoint_every and step % arguments.checkpoint_every == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                train.checkpoint(state, step=step, samples=step * arguments.batch)
    dist.barrier()
    if has_agent:
        train.session().reporter.drain()


if __name__ == "__main__":
    main()
