"""A rank of a parameter server that learns a line, and prints its steps.

Arguments: a folder; the steps; the workers (`0,2`) that pause, and after how many steps, until the folder has the file
`go`. A worker prints `step N` after each step and, at its end, a JSON line of what it has seen.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from lepton import train
from lepton.train.parallel import Plan, Strategy, strategy

SAMPLES, BATCH, RATE = 240, 24, 0.05
WEIGHTS = torch.tensor([[1.0, -2.0, 0.5, 3.0]])


def main() -> None:
    torch.set_num_threads(1)
    gang = train.session().gang
    gang.join()
    torch.manual_seed(0)
    part = strategy(
        Plan.of_environment(),
        gang,
        lambda: nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1)),
        lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=0.5),
    )
    if part.serves:
        part.serve()
        return
    pausing = {int(worker) for worker in sys.argv[3].split(",")}
    pause = int(sys.argv[4]) if part.data_rank in pausing else -1
    work(part, folder=Path(sys.argv[1]), steps=int(sys.argv[2]), pause=pause)


def work(part: Strategy, *, folder: Path, steps: int, pause: int) -> None:
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))
    y = x @ WEIGHTS.T
    for step in range(part.joins_after, steps):
        while step == pause and not (folder / "go").exists():
            time.sleep(0.005)
        rows = torch.arange(step * BATCH, (step + 1) * BATCH)[part.data_rank :: part.data_size] % SAMPLES
        part.forward_backward(x[rows], y[rows], squares, scale=1 / BATCH)
        part.step(learning_rate=RATE)
        print(f"step {step + 1}", flush=True)
    momenta: list[str] = []
    if part.saves:
        state = part.state()
        save_file({name: tensor.clone() for name, tensor in part.full_model_state().items()}, folder / "weights")
        momenta = sorted(state["optimizer"]["state"])
    outputs = part.evaluate(x)
    told = {
        "worker": part.data_rank,
        "joined_after": part.joins_after,
        "furthest": part.furthest,  # type: ignore[attr-defined]  # of workers only
        "loss": None if outputs is None else float(squares(outputs, y)) / SAMPLES,
        "momenta": momenta,
    }
    part.close()
    print(json.dumps(told), flush=True)


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(outputs, targets, reduction="sum")


if __name__ == "__main__":
    main()
