"""Small models trained for real on small data, as packages like those that the trainer's worker leaves."""

from dataclasses import dataclass

import torch

from lepton import data
from lepton.artifacts import ArtifactStore
from lepton.data import AnyDataset
from services.trainer.worker.package import store_package
from services.trainer.worker.recipes import task as task_of
from services.trainer.worker.spec import TrainingSpec

PROJECT = "acme"
VERSION = "projects/acme/models/m/versions/1"


@dataclass(frozen=True, slots=True)
class Trained:
    """A package in a store, and what its model measures on the samples that were held out."""

    store: ArtifactStore
    package: str
    accuracy: float
    x: torch.Tensor


def train(
    store: ArtifactStore, recipe: str, dataset: AnyDataset, *, epochs: int, rate: float, seed: int = 0, **model: int
) -> Trained:
    """Trains a recipe's model with AdamW under a cosine, in this thread; deterministic."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    digest = store.put_bytes(PROJECT, data.to_safetensors(dataset))
    document = {"project": PROJECT, "dataset": digest, "recipe": recipe, "seed": seed, "model": model}
    spec = TrainingSpec.of(**document)
    task = task_of(spec, dataset)
    net = task.build()
    numbers = task.division.train
    steps = epochs * -(-len(numbers) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.split(numbers[torch.randperm(len(numbers), generator=generator)], 64):
            inputs, targets = task.samples.take(chosen)
            optimizer.zero_grad(set_to_none=True)
            (task.measure.loss(net(inputs), targets) / len(chosen)).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    x, y = task.samples.take(task.division.test)
    with torch.no_grad():
        accuracy = float((net(x).argmax(-1) == y).double().mean())
    package = store_package(
        store,
        spec,
        net,
        (x, y),
        architecture=task.architecture,
        metrics={"accuracy": accuracy},
        job="projects/acme/jobs/j",
        checkpoint=digest,
        facts=task.facts,
    )
    return Trained(store, package, accuracy, x)


def digits(store: ArtifactStore, seed: int = 0) -> Trained:
    """A convolutional network on scikit-learn's digits."""
    return train(store, "image_classifier", data.digits(), epochs=8, rate=4e-3, seed=seed, features=16, hidden=64)


def story(store: ArtifactStore, text: data.Corpus, seed: int = 0, **model: int) -> Trained:
    """A transformer on a text."""
    shape = {"context": 32, "width": 64, "layers": 2, "heads": 4, **model}
    return train(store, "language_model", text, epochs=4, rate=4e-3, seed=seed, **shape)
