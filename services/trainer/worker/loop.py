"""The training loop of all recipes: step-exact, whatever the ranks, and however the model is divided over them."""

from collections.abc import Mapping
from itertools import groupby, islice
from typing import Final

import torch
from torch import Tensor, nn

from lepton.errors import LeptonError
from lepton.tracing import span
from lepton.train.checkpoints import Checkpoint, Position
from lepton.train.parallel import Plan, strategy
from lepton.train.prefetch import Prefetch
from lepton.train.rank_session import RankSession
from lepton.train.reporter import Commit
from lepton.train.sampler import Batch, StepSampler
from services.trainer.worker.epoch_lines import EpochLines, words
from services.trainer.worker.evaluation import measure, measure_alone, named
from services.trainer.worker.meter import Meter
from services.trainer.worker.optimizers import optimizer_of
from services.trainer.worker.package import store_package
from services.trainer.worker.schedule import learning_rate
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.stopping import Stopping
from services.trainer.worker.task import Task

_STOP_EVERY_STEPS: Final = 10  # how often the ranks agree whether any was asked to stop
_GOLDEN: Final = 128

Prepared = tuple[Batch, Tensor, Tensor]


class Loop:
    """One rank's part of one run. Every rank of the gang makes one, and calls the same of it."""

    def __init__(self, spec: TrainingSpec, session: RankSession, task: Task, plan: Plan) -> None:
        self._spec, self._session, self._task = spec, session, task
        self._gang, self._reporter = session.gang, session.reporter
        self._strategy = strategy(plan, self._gang, task.build, optimizer_of(spec), precision=spec.precision)
        self._is_in_step = plan.data != "parameter_server"
        # Rank 0 speaks for all; where ranks do not step together, the one of them that saves.
        self._speaks = self._gang.rank == 0 if self._is_in_step else self._strategy.saves
        self._position = Position(step=0, epoch=0, samples=0)
        self._saved_step = 0
        self._stopping = Stopping()
        self._keeps_best = self._is_in_step and spec.stop_patience_epochs > 0 and len(task.division.validation) > 0
        self._best: dict[str, Tensor] = {}
        self._measured: dict[str, float] = {}
        self._commit: Commit | None = None
        self._checkpoint = ""
        self._meter = Meter(task.measure)
        self._lines = EpochLines(spec.epochs)

    def restore(self, saved: Checkpoint) -> None:
        """Goes on from a checkpoint of the same spec, taken at whatever world size and under whatever plan."""
        self._strategy.load(saved)
        kept = saved.state.get("loop", {})
        self._stopping = Stopping.of_state(kept["stopping"]) if "stopping" in kept else Stopping()
        self._measured = dict(kept.get("measured", {}))
        self._best = dict(saved.state.get("best", {}))
        self._position, self._saved_step = saved.position, saved.position.step
        self._checkpoint = saved.digest

    def run(self) -> bool:
        """Trains to the end and offers the package; False when it was asked to stop and has saved its work instead."""
        if self._strategy.serves:
            self._session.pace.rests()
            self._strategy.serve()
            return not self._is_asked_to_stop()
        is_finished = self._train()
        self._session.pace.rests()
        if is_finished:
            self._finish()
        self._strategy.close()
        return is_finished

    def _train(self) -> bool:
        if self._stopping.is_over:
            return True
        sampler = StepSampler(
            count=len(self._task.division.train),
            batch_size=self._spec.batch_size,
            seed=self._spec.seed,
            rank=self._strategy.data_rank,
            world_size=self._strategy.data_size,
        )
        self._steps = sampler.steps_per_epoch * self._spec.epochs
        ranks, device, samples = self._gang.world_size, self._gang.device.type, len(self._task.division.train)
        step = self._position.step
        self._say(self._lines.begin(ranks=ranks, device=device, samples=samples, step=step, steps=self._steps))
        batches = sampler.batches(epochs=self._spec.epochs, position=self._position.samples)
        is_first = True
        batches = islice(batches, self._strategy.joins_after, None)
        with Prefetch(batches, self._prepare) as prepared:
            for epoch, steps in groupby(prepared, lambda item: item[0].epoch):
                with span("rank.epoch") as timed:
                    timed.set("lepton.epoch", epoch)
                    for batch, inputs, targets in steps:
                        self._step(batch, inputs, targets)
                        if is_first:
                            self._reporter.state("training")
                            is_first = False
                        if not self._after(batch):
                            self._save()
                            return False
                if self._stopping.is_over:
                    return True
        return True

    def _prepare(self, batch: Batch) -> Prepared:
        inputs, targets = self._task.samples.take(self._task.division.train[torch.from_numpy(batch.indices)])
        if self._task.augment is not None:
            inputs = self._task.augment(inputs, batch)
        return batch, inputs, targets

    def _step(self, batch: Batch, inputs: Tensor, targets: Tensor) -> None:
        loss, outputs = self._strategy.forward_backward(
            inputs, targets, self._task.measure.loss, scale=1 / batch.size, parts=self._spec.gradient_accumulation_steps
        )
        self._strategy.step(
            learning_rate=learning_rate(self._spec, batch.step, self._steps), clip_norm=self._spec.clip_norm
        )
        if outputs is not None and self._strategy.counts:
            self._meter.add(loss, outputs, targets)
        self._position = Position(step=batch.step, epoch=batch.epoch + int(batch.ends_epoch), samples=batch.consumed)
        self._session.pace.stepped(batch.step)

    def _after(self, batch: Batch) -> bool:
        """Reports, evaluates and saves where this step calls for it; False when the gang was asked to stop."""
        is_last = batch.step == self._steps
        if batch.step % self._spec.report_every_steps == 0 or is_last:
            rate = learning_rate(self._spec, batch.step, self._steps)
            self._report(batch, {**self._together(self._meter), "learning_rate": rate})
            self._meter = Meter(self._task.measure)
        if batch.ends_epoch:
            self._validate(batch)
            self._say(self._lines.epoch(batch.epoch, batch.step))
        every = self._spec.checkpoint_every_steps
        is_due = batch.step % every == 0 if every else batch.ends_epoch
        if is_due or is_last or self._stopping.is_over:
            self._save()
        if batch.step % _STOP_EVERY_STEPS == 0 and not is_last and not self._stopping.is_over:
            return not self._is_asked_to_stop()
        return True

    def _is_asked_to_stop(self) -> bool:
        if self._is_in_step:
            return self._session.should_stop()
        self._reporter.check()
        return self._reporter.is_stop_requested

    def _validate(self, batch: Batch) -> None:
        if not len(self._task.division.validation) or not (self._is_in_step or self._speaks):
            return
        self._reporter.pace(step=batch.step, step_s=0.0, busy_s=0.0, idle=True)  # this may take longer than any step
        with span("rank.evaluate"):
            self._measured = named("validation", self._evaluated(self._task.division.validation))
        self._report(batch, self._measured)
        self._stopping = self._stopping.after(self._spec, self._measured)
        if self._stopping.is_best and self._keeps_best:
            self._best = self._strategy.full_model_state()

    def _evaluated(self, numbers: Tensor) -> dict[str, float]:
        return self._together(measure(self._strategy, self._task, numbers, is_shared=self._is_in_step))

    def _together(self, meter: Meter) -> dict[str, float]:
        """The gang's metrics; where ranks do not step together, this rank's own."""
        totals = meter.totals()
        return meter.metrics(self._gang.sum(totals) if self._is_in_step else totals)

    def _report(self, batch: Batch, metrics: Mapping[str, float]) -> None:
        if self._speaks:
            self._lines.take(metrics)
            self._reporter.metrics(
                metrics,
                step=batch.step,
                epoch=batch.epoch,
                progress=batch.step / self._steps,
                total_steps=self._steps,
            )

    def _say(self, line: str) -> None:
        """Prints a line to the job's log."""
        if self._speaks:
            print(line, flush=True)

    def _save(self) -> None:
        if self._position.step == self._saved_step or not self._strategy.saves:
            return
        state = self._strategy.state()
        state["loop"] = {
            "stopping": self._stopping.to_state(),
            "measured": self._measured,
            "carried": dict(self._task.carried),
        }
        if self._best:
            state["best"] = self._best
        # The policy's metric is `loss` unless it says otherwise, and what counts is how well new samples are judged.
        metrics = {name.removeprefix("validation_"): value for name, value in self._measured.items()}
        with span("rank.checkpoint") as timed:
            timed.set("lepton.step", self._position.step)
            self._commit = self._session.checkpoint(
                state,
                position=self._position,
                metrics={**metrics, **self._measured},
                config_digest=self._spec.digest,
            )
        self._saved_step = self._position.step

    def _settle(self) -> None:
        """Waits for the last checkpoint; one that could not be written is no reason to lose the model."""
        if self._commit is None:
            return
        try:
            self._commit.wait()
            self._checkpoint = self._commit.digest
        except LeptonError:
            self._reporter.check()  # raises when this run has been superseded

    def _finish(self) -> None:
        """Measures on the test part; the rank that speaks packages the model and offers it to the job."""
        self._reporter.state("evaluating")
        numbers = self._task.division.test
        with span("rank.evaluate"):
            if self._keeps_best:  # of the best epoch's weights only one rank knows
                model = self._built(self._best) if self._speaks else None
                test = {} if model is None else measure_alone(model, self._task, numbers)
            else:
                state = self._strategy.full_model_state()
                model = self._built(state) if self._speaks else None
                if self._is_in_step:
                    test = self._evaluated(numbers)
                else:
                    test = {} if model is None else measure_alone(model, self._task, numbers)
        if model is not None:
            self._package(model, test)

    def _built(self, state: Mapping[str, Tensor]) -> nn.Sequential:
        model = self._task.build()
        model.load_state_dict(state)
        return model

    def _package(self, model: nn.Sequential, test: Mapping[str, float]) -> None:
        test = {name: value for name, value in test.items() if name != "samples_per_s"}
        metrics = {**test, **self._measured, **self._task.metrics, **named("test", test)}
        self._say(f"done  {words(named('test', test))}")
        self._settle()
        self._reporter.state("packaging")
        with span("rank.package"):
            digest = store_package(
                self._session.store,
                self._spec,
                self._task.whole(model),
                (self._task.served or self._task.samples).take(self._task.division.test[:_GOLDEN]),
                architecture=self._task.architecture,
                metrics=metrics,
                job=self._session.environment.job,
                checkpoint=self._checkpoint,
                output=self._task.output,
                facts=self._task.facts,
            )
            self._reporter.package(digest, metrics=metrics)
