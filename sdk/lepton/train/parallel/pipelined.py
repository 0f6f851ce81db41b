"""The strategy of a model whose layers are dealt out over stages: torch's pipelining schedules over a cut model."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from lepton.train.parallel import gradients, relay, share, state
from lepton.train.parallel.mesh import Place
from lepton.train.parallel.optimizing import Optimizing
from lepton.train.parallel.precision import Precision, plain
from lepton.train.parallel.replicas import Replicas
from lepton.train.parallel.strategy import Loss, SavedState
from lepton.train.parallel.tied import Tied


class Pipelined:
    """Each rank holds a stage and passes the microbatches of its pipeline's share of the data on.

    The schedule is 1F1B (one forward, one backward: few activations are kept), or GPipe where there are fewer
    microbatches than stages. Microbatches are of one size: the share is filled up with samples that do not count.
    """

    saves = True
    serves = False
    joins_after = 0

    def __init__(
        self,
        stage: fx.GraphModule,
        place: Place,
        replicas: Replicas,
        optimizing: Optimizing,
        precision: Precision,
        *,
        stages: int,
        microbatches: int,
        takes_inputs: bool,
        tied: Tied,
        mixing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`takes_inputs`: whether this stage, not being the first, needs the model's inputs beside the activations."""
        self.model: nn.Module = stage
        self._stage, self.device = stage, place.device
        self.data_rank, self.data_size = place.data_rank, place.data_size
        self._place, self._stages, self._takes_inputs = place, stages, takes_inputs
        self._number = place.pipeline_rank
        self._is_first, self._is_last = self._number == 0, self._number == stages - 1
        self.counts = self._is_last and place.tensor_rank == 0
        self._microbatches = microbatches or stages
        self._replicas, self._optimizing, self._precision, self._mixing = replicas, optimizing, precision, mixing
        self._tied = tied
        self._schedule: PipelineScheduleSingle | None = None
        self._size = 0  # samples of a part, filled up
        self._part = _Part()

    def forward_backward(
        self, inputs: Tensor, targets: Tensor, loss: Loss, *, scale: float, parts: int = 1
    ) -> tuple[float, Tensor | None]:
        """See Strategy."""
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        self._prepare(inputs, targets, loss, parts)
        total, outputs = torch.zeros((), device=self.device), list[Tensor]()
        factor = scale * self._replicas.averaged_over
        for x, y in share.parts_of(inputs, targets, parts):
            self._part = _Part(targets=y, loss=loss, factor=factor, count=len(x))
            output = self._run(x)
            if output is not None:
                outputs.append(plain(output).detach()[: len(x)])
                total += self._part.total.to(self.device)
        gradients.settle_placements(self._optimizing.parameters)
        self._tied.sum()
        self._replicas.finish(self._optimizing.parameters)
        return float(total), torch.cat(outputs) if outputs else None

    def _prepare(self, inputs: Tensor, targets: Tensor, loss: Loss, parts: int) -> None:
        """Makes the schedule for parts of this size, and lets it learn the shapes in a step with nothing at stake."""
        largest = -(-len(inputs) // parts)  # the size of the largest part
        size = max(-(-largest // self._microbatches), 1) * self._microbatches
        if self._schedule is not None and size <= self._size:
            return
        self._size = size
        stage = PipelineStage(self._stage, self._number, self._stages, self.device, group=self._place.group("pipeline"))
        kind = Schedule1F1B if self._microbatches >= self._stages else ScheduleGPipe
        self._schedule = kind(stage, self._microbatches, loss_fn=self._loss, scale_grads=False)
        buffers = {name: buffer.clone() for name, buffer in self._stage.named_buffers()}
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self._part = _Part(targets=targets[:0], loss=loss)
            self._run(inputs[:0])
        self._stage.zero_grad()
        with torch.no_grad():
            for name, buffer in self._stage.named_buffers():
                buffer.copy_(buffers[name])

    def _run(self, x: Tensor) -> Tensor | None:
        """One part through the pipeline, forward and backward; the last stage's outputs."""
        assert self._schedule is not None
        filled = self._filled(x)
        rows = torch.arange(self._size, device=self.device)
        with self._mixing(), self._precision.forward():
            arguments: dict[str, Any] = {"target": rows} if self._is_last else {}
            if self._takes_inputs:
                arguments["inputs"] = filled
            output = self._schedule.step(*((filled,) if self._is_first else ()), **arguments)
        return output if self._is_last else None

    def _filled(self, x: Tensor) -> Tensor:
        missing = self._size - len(x)
        if not missing:
            return x
        filler = x[:1] if len(x) else share.stand_in(x)
        return torch.cat([x, *[filler] * (-(-missing // len(filler)))])[: self._size]

    def _loss(self, output: Tensor, rows: Tensor) -> Tensor:
        """The loss of a microbatch: of those of its rows that are samples."""
        part = self._part
        with torch.autocast(self.device.type, enabled=False):
            output = plain(output)
            kept = rows[rows < part.count]
            if not len(kept):
                return share.nothing(output)
            assert part.loss is not None
            summed = part.loss(output[: len(kept)], part.targets[kept])
            part.total += summed.detach().to(part.total.device)
            return self._precision.scaled(summed * part.factor)

    def step(self, *, learning_rate: float, clip_norm: float = 0.0) -> None:
        """See Strategy."""
        self._optimizing.step(learning_rate=learning_rate, clip_norm=clip_norm)

    def evaluate(self, inputs: Tensor) -> Tensor | None:
        """See Strategy."""
        inputs = inputs.to(self.device)
        x = inputs if len(inputs) else share.stand_in(inputs)
        group = self._place.group("pipeline")
        arguments: list[Tensor] = [x]
        if not self._is_first:
            before = dist.get_global_rank(group, self._number - 1)
            arguments = list(relay.receive(before, device=self.device, group=group).values())
        extra = {"inputs": x} if self._takes_inputs else {}
        with torch.no_grad(), self._mixing(), self._precision.forward():
            outputs = self._stage(*arguments, **extra)
        if self._is_last:
            return plain(outputs)[: len(inputs)]
        after = dist.get_global_rank(group, self._number + 1)
        relay.send({str(i): t for i, t in enumerate(outputs)}, after, device=self.device, group=group)
        return None

    def state(self) -> dict[str, Any]:
        """See Strategy."""
        return {"model": state.model_state(self.model), "optimizer": self._optimizing.state()}

    def load(self, checkpoint: SavedState) -> None:
        """See Strategy."""
        state.load_into(self.model, self._optimizing, checkpoint)

    def full_model_state(self) -> dict[str, Tensor]:
        """See Strategy."""
        place, cpu = self._place, torch.device("cpu")
        leads = place.data_rank == 0 and place.tensor_rank == 0
        mine = state.whole(state.model_state(self.model), keep=leads)
        if not leads:
            return {}
        group = place.group("pipeline")
        if not self._is_first:
            relay.send(mine, dist.get_global_rank(group, 0), device=cpu)
            return {}
        for number in range(1, self._stages):
            mine |= relay.receive(dist.get_global_rank(group, number), device=cpu)
        return mine

    def serve(self) -> None:
        """See Strategy."""

    def close(self) -> None:
        """See Strategy."""


class _Part:
    """What the loss of the last stage needs to know of the part that is in the pipeline, and what it sums up."""

    def __init__(
        self, targets: Tensor | None = None, loss: Loss | None = None, factor: float = 0.0, count: int = 0
    ) -> None:
        self.targets = torch.empty(0) if targets is None else targets
        self.loss, self.factor, self.count = loss, factor, count
        self.total = torch.zeros(())
