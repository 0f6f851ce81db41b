"""The `image_classifier` recipe: trains a small convolutional network, data-parallel and step-exactly."""

import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Final

import torch
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lepton import models
from lepton.errors import FailedPrecondition
from lepton.models.image_classifier import ImageClassifier
from lepton.tracing import span
from lepton.train.checkpoints import Checkpoint, Position
from lepton.train.rank_session import RankSession
from lepton.train.sampler import Batch, StepSampler
from services.trainer.worker.package import store_package
from services.trainer.worker.recipes.augmentation import shifted
from services.trainer.worker.recipes.images import Images
from services.trainer.worker.recipes.meter import Meter
from services.trainer.worker.spec import TrainingSpec

_STOP_EVERY_STEPS: Final = 10  # how often the ranks agree whether any was asked to stop
_EVALUATION_BATCH: Final = 512
_WARM_UP: Final = 0.1  # of all steps


def train(spec: TrainingSpec, session: RankSession) -> bool:
    """Trains to the end, or until any rank is asked to stop (False); every rank of the gang calls it."""
    run = _Run(spec, session, Images.load(spec, session))
    saved = session.resume()
    if saved is not None:
        run.restore(saved)
    if not run.train():
        return False
    run.finish()
    return True


class _Run:
    """One rank's part of one run of the recipe."""

    def __init__(self, spec: TrainingSpec, session: RankSession, images: Images) -> None:
        self._spec, self._session, self._images = spec, session, images
        self._gang, self._reporter = session.gang, session.reporter
        channels, height, width = images.x.shape[1:]
        self._architecture = spec.architecture.complete(
            channels=channels, height=height, width=width, classes=images.classes
        )
        torch.manual_seed(spec.seed)
        self._model = models.build(self._architecture).to(self._gang.device)
        if isinstance(self._model, ImageClassifier):
            self._model.normalise(*images.statistics())
        self._parallel = DistributedDataParallel(self._model, forward_sync_buffers=False)
        self._settle(torch.zeros(1, channels, height, width, device=self._gang.device))
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        self._sampler = StepSampler(
            count=len(images.train),
            batch_size=spec.batch_size,
            seed=spec.seed,
            rank=self._gang.rank,
            world_size=self._gang.world_size,
        )
        self._steps = self._sampler.steps_per_epoch * spec.epochs
        self._position = Position(step=0, epoch=0, samples=0)
        self._saved_step = 0
        self._checkpoint = ""
        self._held_out: dict[str, float] = {}
        self._meter = Meter()

    def _settle(self, image: torch.Tensor) -> None:
        # DDP lays its buckets out anew after its first backward pass and sums in another order from then on. That pass
        # is made here, with nothing at stake; else a resumed run would differ from the uninterrupted in the last bits.
        self._parallel(image).sum().backward()
        self._model.zero_grad()

    def restore(self, saved: Checkpoint) -> None:
        """Goes on from a checkpoint of the same spec, taken at whatever world size."""
        if saved.manifest.config_digest != self._spec.digest:
            raise FailedPrecondition("CHECKPOINT_OF_ANOTHER_RUN", checkpoint=saved.digest)
        self._model.load_state_dict(saved.state["model"])
        self._optimizer.load_state_dict(saved.state["optimizer"])
        self._position, self._checkpoint = saved.position, saved.digest
        self._saved_step = saved.position.step

    def train(self) -> bool:
        """Takes every remaining step; False when it was asked to stop and has saved its work instead."""
        is_first = True
        batches = self._sampler.batches(epochs=self._spec.epochs, position=self._position.samples)
        for epoch, steps in groupby(batches, lambda batch: batch.epoch):
            with span("rank.epoch") as timed:
                timed.set("lepton.epoch", epoch)
                for batch in steps:
                    self._step(batch)
                    if is_first:
                        self._reporter.state("training")
                        is_first = False
                    if not self._after(batch):
                        self._save()
                        return False
        return True

    def finish(self) -> None:
        """Evaluates unless just done, and rank 0 packages the model and offers it to the job."""
        if not self._held_out:
            self._evaluate()
        if self._gang.rank != 0:
            return
        self._reporter.state("packaging")
        with span("rank.package"):
            digest = store_package(
                self._session.store,
                self._spec,
                self._model,
                self._images.take(self._images.test[:128]),
                architecture=self._architecture,
                metrics=self._held_out,
                job=self._session.environment.job,
                checkpoint=self._checkpoint,
            )
            self._reporter.package(digest, metrics=self._held_out)

    def _step(self, batch: Batch) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._spec.learning_rate * _schedule(batch.step, self._steps)
        samples = self._images.train[torch.from_numpy(batch.indices)]
        x, y = self._images.take(samples)
        x = shifted(x, batch, seed=self._spec.seed, pixels=self._spec.shift_pixels)
        x, y = x.to(self._gang.device), y.to(self._gang.device)
        logits = self._parallel(x)
        loss = functional.cross_entropy(logits, y, reduction="sum")
        self._optimizer.zero_grad()
        # DDP averages over the ranks; this makes it the mean over the global batch, however unevenly that is divided.
        (loss * (self._gang.world_size / batch.size)).backward()  # type: ignore[no-untyped-call]  # torch's own
        self._optimizer.step()
        hits = int((logits.argmax(1) == y).sum())
        self._meter.add(loss=float(loss.detach()), correct=hits, samples=len(y))
        self._position = Position(step=batch.step, epoch=batch.epoch + int(batch.ends_epoch), samples=batch.consumed)

    def _after(self, batch: Batch) -> bool:
        """Reports, evaluates and saves where this step calls for it; False when the gang was asked to stop."""
        if batch.step % self._spec.report_every_steps == 0 or batch.step == self._steps:
            self._report(batch, self._meter.metrics(self._gang.sum(self._meter.totals())))
            self._meter = Meter()
        if batch.ends_epoch:
            self._evaluate()
            self._report(batch, {f"held_out_{name}": value for name, value in self._held_out.items()})
        every = self._spec.checkpoint_every_steps
        is_due = batch.step % every == 0 if every else batch.ends_epoch
        if is_due or batch.step == self._steps:
            self._save()
        if batch.step % _STOP_EVERY_STEPS == 0 and batch.step != self._steps:
            return not self._session.should_stop()
        return True

    def _report(self, batch: Batch, metrics: Mapping[str, float]) -> None:
        if self._gang.rank == 0:
            self._reporter.metrics(metrics, step=batch.step, epoch=batch.epoch, progress=batch.step / self._steps)

    def _save(self) -> None:
        if self._position.step == self._saved_step:
            return
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        with span("rank.checkpoint") as timed:
            timed.set("lepton.step", self._position.step)
            commit = self._session.checkpoint(
                state, position=self._position, metrics=self._held_out, config_digest=self._spec.digest
            )
        self._saved_step, self._checkpoint = self._position.step, commit.digest

    def _evaluate(self) -> None:
        share = self._images.test[self._gang.rank :: self._gang.world_size]
        meter = Meter()
        self._model.eval()
        with torch.no_grad(), span("rank.evaluate"):
            for samples in _chunks(share):
                x, y = (tensor.to(self._gang.device) for tensor in self._images.take(samples))
                logits = self._model(x)
                loss = float(functional.cross_entropy(logits, y, reduction="sum"))
                meter.add(loss=loss, correct=int((logits.argmax(1) == y).sum()), samples=len(y))
            metrics = meter.metrics(self._gang.sum(meter.totals()))
        self._model.train()
        self._held_out = {name: metrics[name] for name in ("accuracy", "loss")}


def _schedule(step: int, steps: int) -> float:
    """The share of the learning rate at a step: a short linear warm-up, then half a cosine down."""
    warm_up = max(steps * _WARM_UP, 1.0)
    return min(step / warm_up, 1.0) * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps))


def _chunks(samples: torch.Tensor) -> Iterable[torch.Tensor]:
    return torch.split(samples, _EVALUATION_BATCH) if len(samples) else ()
