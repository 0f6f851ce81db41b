"""The learning rate of each step, as a pure function of the spec and the step."""

import math

from services.trainer.worker.spec import TrainingSpec

_WARM_UP = 0.1  # of all steps, unless the spec says how many


def learning_rate(spec: TrainingSpec, step: int, steps: int) -> float:
    """The rate of step 1 .. steps: a linear warm-up from 0 times the shape that the spec names."""
    warm_up = steps * _WARM_UP if spec.warmup_steps is None else float(spec.warmup_steps)
    rising = min(step / max(warm_up, 1.0), 1.0)
    return spec.learning_rate * rising * _shape(spec, (step - 1) / steps)


def _shape(spec: TrainingSpec, done: float) -> float:
    if spec.schedule == "linear":
        return 1.0 - done
    if spec.schedule == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * done)
    if spec.schedule == "step":
        epoch = int(done * spec.epochs + 1e-9)
        return spec.decay ** (epoch // spec.decay_epochs)
    return 1.0
