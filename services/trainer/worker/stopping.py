"""When a run ends before its last epoch: after so many epochs without a better value; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from lepton.errors import InvalidArgument
from services.trainer.worker.spec import TrainingSpec

_LARGER_IS_BETTER: Final = ("accuracy", "auc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """What was best so far, and for how many epochs nothing has been better."""

    best: float | None = None
    epochs_since: int = 0
    is_over: bool = False

    def after(self, spec: TrainingSpec, metrics: Mapping[str, float]) -> Self:
        """What holds after an epoch that gave these metrics; the same where the spec wants no early end."""
        if not spec.stop_patience_epochs:
            return self
        if spec.stop_metric not in metrics:
            known = ", ".join(sorted(metrics)) or "nothing, for its validation part is empty"
            raise InvalidArgument("INVALID_FIELD", fields={"stop_metric": f"is not measured here; there is {known}"})
        value = metrics[spec.stop_metric]
        if self.best is None or _gain(spec.stop_metric, value, self.best) > spec.stop_min_delta:
            return type(self)(best=value)
        since = self.epochs_since + 1
        return type(self)(best=self.best, epochs_since=since, is_over=since >= spec.stop_patience_epochs)

    @property
    def is_best(self) -> bool:
        """Whether the epoch that was noted last is the best."""
        return self.best is not None and self.epochs_since == 0

    def to_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best, "epochs_since": self.epochs_since, "is_over": self.is_over}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """What a checkpoint has kept."""
        return cls(best=state["best"], epochs_since=int(state["epochs_since"]), is_over=bool(state["is_over"]))


def _gain(metric: str, value: float, best: float) -> float:
    return value - best if metric.endswith(_LARGER_IS_BETTER) else best - value
