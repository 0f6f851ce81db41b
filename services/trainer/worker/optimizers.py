"""The optimizer that a spec names."""

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from services.trainer.worker.spec import TrainingSpec


def optimizer_of(spec: TrainingSpec) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Makes the spec's optimizer over some parameters; the learning rate is set anew at every step."""

    def make(parameters: Iterable[nn.Parameter]) -> Optimizer:
        if spec.optimizer == "sgd":
            return SGD(parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay)
        kind = Adam if spec.optimizer == "adam" else AdamW
        return kind(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)

    return make
