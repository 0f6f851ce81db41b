"""What has come of a training: metrics, curves, the model package, and predictions of it in this process."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from lepton.client import AsyncClient
from lepton.client.loop_thread import LoopThread
from lepton.curves import Curves
from lepton.distributed.fleet import Access
from lepton.models import ModelPackage
from lepton.trainer.v1.job_pb2 import Job

if TYPE_CHECKING:
    from matplotlib.figure import Figure

R = TypeVar("R")
_WEIGHTS = "weights.safetensors"
_BATCH = 256


@dataclass(frozen=True)
class TrainingResult:
    """A training that has succeeded. What it does over the network blocks."""

    job: Job
    curves: Curves
    devices: str
    """On what it ran, in words."""
    access: Access = field(repr=False)

    @property
    def name(self) -> str:
        """The job's name, `projects/{project}/jobs/{job}`."""
        return self.job.name

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics, by name; `test_accuracy` is that on the samples which nothing was chosen by."""
        return dict(self.job.metrics)

    @property
    def package(self) -> str:
        """The digest of the model package; `lepton models register NAME --package DIGEST` makes a version of it."""
        return self.job.package

    @property
    def history(self) -> Mapping[str, list[float]]:
        """Every metric over the steps at which it was measured."""
        return {curve.name: list(curve.values) for curve in self.curves}

    @cached_property
    def model_package(self) -> ModelPackage:
        """The package's manifest: architecture, files, signature, lineage."""
        return ModelPackage.parse(self._run(lambda client: client.artifacts.download(self.package)))

    @cached_property
    def model(self) -> Any:
        """The trained torch module, on the CPU, in evaluation mode."""
        from lepton.models import loading  # torch takes seconds to import: only who asks for the model pays

        digest = self.model_package.files[_WEIGHTS]
        return loading.load(self.model_package, self._run(lambda client: client.artifacts.download(digest)))

    def predict(self, inputs: npt.ArrayLike, *, batch_size: int = _BATCH) -> npt.NDArray[Any]:
        """The model's outputs for some inputs, computed in this process: for classifiers the logits, N x classes.

        Inputs have the signature's shape: images N x C x H x W, raw as they were trained on; one dimension less is
        taken for images of one channel.
        """
        from lepton.models import loading

        (signature,) = self.model_package.signature.inputs
        array = np.asarray(inputs)
        if array.ndim == len(signature.shape) - 1 == 3:
            array = array[:, None]
        return loading.outputs(self.model, array, signature.datatype, batch_size=batch_size)

    def classify(self, inputs: npt.ArrayLike, *, batch_size: int = _BATCH) -> npt.NDArray[np.int64]:
        """The likeliest class of each input."""
        classes: npt.NDArray[np.int64] = self.predict(inputs, batch_size=batch_size).argmax(axis=-1)
        return classes

    def download(self, folder: Path) -> None:
        """Puts the package's files and its manifest into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_bytes(self.model_package.render())

        async def files(client: AsyncClient) -> None:
            for name, digest in self.model_package.files.items():
                await client.artifacts.download_to(digest, folder / name)

        self._run(files)

    def plot(self, *metrics: str) -> "Figure":
        """The curves, as a matplotlib figure."""
        from lepton.curves.plot import plot

        return plot([self.curves], metrics=metrics)

    def _run(self, work: Callable[[AsyncClient], Coroutine[Any, Any, R]]) -> R:
        async def connected() -> R:
            async with self.access.client() as client:
                return await work(client)

        loop = LoopThread()  # so that it works where a loop runs already, as in a notebook
        try:
            return loop.run(connected())
        finally:
            loop.close()
