"""A rank that trains small networks under one plan after another, and tells the losses and, from rank 0, the weights.

Arguments: a JSON list of cases, and a folder. A case is {"name": .., "network": .., "plan": {..}} and may have "parts",
"precision", "first" and "last" (the steps), "save" (a checkpoint after them) and "load" (a case that has saved).
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lepton import train
from lepton.train.checkpoints import Checkpoint, Position
from lepton.train.parallel import Plan, strategy
from tests.harness.ranks import networks


def main() -> None:
    torch.set_num_threads(1)
    session = train.session()
    session.gang.join()
    folder = Path(sys.argv[2])
    for case in json.loads(sys.argv[1]):
        result = run(case, folder)
        if train.rank() == 0:
            (folder / f"{case['name']}.json").write_text(json.dumps(result))
        session.gang.sum([0.0])  # what the first rank has written is there for all
    session.reporter.drain()
    session.gang.leave()


def run(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    session = train.session()
    name, gang = case["network"], session.gang
    part = strategy(
        Plan.parse(json.dumps(case.get("plan", {}))),
        gang,
        lambda: networks.build(name),
        networks.optimizer,
        precision=case.get("precision", "fp32"),
    )
    if "load" in case:
        digest = json.loads((folder / f"{case['load']}.json").read_text())["digest"]
        part.load(Checkpoint(session.store, session.environment.project, digest))
    losses = []
    steps = networks.batches(name)[case.get("first", 0) : case.get("last")]
    for inputs, targets in steps:
        share = slice(part.data_rank, None, part.data_size)
        summed, outputs = part.forward_backward(
            inputs[share], targets[share], networks.loss, scale=1 / len(inputs), parts=case.get("parts", 1)
        )
        assert outputs is None or len(outputs) == len(inputs[share])
        part.step(learning_rate=networks.RATE, clip_norm=networks.CLIP_NORM)
        losses.append(gang.sum([summed if part.counts else 0.0])[0] / len(inputs))
    result: dict[str, Any] = {"losses": losses, "evaluated": evaluated(part, steps[0][0])}
    if case.get("save"):
        commit = session.checkpoint(
            part.state(), position=Position(step=1, epoch=0, samples=0), metrics={}, config_digest=""
        )
        commit.wait()
        result["digest"] = commit.digest
    weights = part.full_model_state()
    assert bool(weights) == (gang.rank == 0)
    if gang.rank == 0:
        weights = {key: tensor.clone() for key, tensor in weights.items()}
        save_file(weights, folder / f"{case['name']}.safetensors")
    part.close()
    return result


def evaluated(part: Any, inputs: torch.Tensor) -> float:
    """The sum of the outputs' squares over all samples: the same however they are divided."""
    part.model.eval()
    outputs = part.evaluate(inputs[part.data_rank :: part.data_size])
    part.model.train()
    mine = float(outputs.square().sum()) if outputs is not None and part.counts else 0.0
    return float(train.session().gang.sum([mine])[0])


if __name__ == "__main__":
    main()
