"""The program that makes one variant of a model package, measures it beside the original, and stores both results.

Run by an agent as `python -m services.inference.compress.optimise` with LEPTON_SPEC naming a JSON file (see `Spec`).
What it does now is its slice's message (`40% retuning`); it reports one artifact, `report`: the JSON of a
`figures.Report`, which names the package that it made. A variant that does not suit is a report as well; anything else
that fails is its exit.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import safetensors.torch
import torch
from safetensors.numpy import save

from lepton import models
from lepton.artifacts import ArtifactStore, parse_digest
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.golden import TOLERANCES, Array
from lepton.models import ModelPackage
from lepton.models.package import ENGINES, FACTS, GOLDEN, ONNX, PT2, WEIGHTS
from lepton.tracing import span
from lepton.train import session
from lepton.train.traced import traced
from services.inference.compress import onnx_files
from services.inference.compress.export_onnx import ExportSpec, export
from services.inference.compress.figures import Figures, Report
from services.inference.compress.judging import Judgement, Run, answers, judge, measure_of
from services.inference.compress.making import Made, Options, Original, make
from services.inference.compress.measuring import Speed, race
from services.inference.compress.samples import Part, Samples, gather, golden
from services.inference.compress.variants import VARIANTS, Variant, unsuitable

REPORT: Final = "report"
_TELL_EVERY_S: Final = 1.0
_EXACT: Final = 1e-3
"""So far a golden answer may be off in any case."""
_SLACK: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Which variant of which package is made, with what."""

    project: str
    package: str
    variant: str
    dataset: str = ""
    seed: int = 0
    epochs: int = 12
    max_accuracy_drop: float = 0.005
    parent: str = ""
    optimization: str = ""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The spec that a JSON object holds; InvalidArgument when it holds none."""
        try:
            document = json.loads(data)
            parse_digest(document["package"], "package")
            spec = cls(**document)
            if spec.variant not in VARIANTS:
                raise ValueError(f"{spec.variant!r} is no variant")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument("INVALID_FIELD", fields={"spec": str(error)}) from error
        return spec


def optimise(store: ArtifactStore, spec: Spec, tell: Callable[[str, float], None]) -> Report:
    """Makes, judges and measures the variant, and stores its package."""
    tell("reading", 0.0)
    variant = VARIANTS[spec.variant]
    original = read_original(store, spec.project, spec.package)
    samples = gather(store, spec.project, original.package, spec.dataset)
    problem = unsuitable(variant, has_module=original.module is not None, has_training=samples.training is not None)
    if problem:
        return Report(variant=variant.name, not_applicable=problem)
    device = "cuda" if variant.needs_device and torch.cuda.is_available() else "cpu"
    options = Options(epochs=spec.epochs, seed=spec.seed, max_accuracy_drop=spec.max_accuracy_drop, device=device)
    try:
        if variant.needs_device and device == "cpu":
            raise FailedPrecondition(
                "ENGINE_UNAVAILABLE", engine=variant.name, problem="there is no GPU on this machine"
            )
        with span("optimise.make", variant=variant.name):
            made = make(variant, original, samples, options, tell)
    except FailedPrecondition as error:
        if error.reason != "ENGINE_UNAVAILABLE":
            raise
        return Report(variant=variant.name, not_applicable=error.message)
    with made.closing:
        with span("optimise.measure", variant=variant.name):
            figures, before = measured(original, made, samples, tell)
        with span("optimise.package", variant=variant.name):
            package = store_variant(store, spec, variant, original, made, figures)
    tell("done", 1.0)
    return Report(
        variant=variant.name,
        figures=figures,
        original=before,
        package=package,
        engine_key=str(made.engine or ""),
        notes=tuple(note for note in made.notes if note),
    )


def read_original(store: ArtifactStore, project: str, digest: str) -> Original:
    """The model of a package; one without an ONNX file is exported first, and proven."""
    package = ModelPackage.parse(store.read(project, digest))
    onnx = export(store, ExportSpec(project=project, package=digest))
    module = None
    if package.architecture is not None and WEIGHTS in package.files:
        module = models.build(package.architecture)
        module.load_state_dict(safetensors.torch.load(store.read(project, package.files[WEIGHTS])))
        module.eval()
    return Original(
        package=package,
        digest=digest,
        onnx=store.read(project, onnx),
        onnx_digest=onnx,
        golden=golden(store, project, package),
        module=module,
    )


def measured(
    original: Original, made: Made, samples: Samples, tell: Callable[[str, float], None]
) -> tuple[Figures, Figures]:
    """The figures of the variant and of the original: judged on the same samples, timed in turns."""
    tell("judging", 0.85)
    measure = measure_of(original.package, samples.judged)
    before = original.run()
    right = answers(before, samples.judged)
    was = judge(right, right, samples.judged, measure, samples.heads)
    given = answers(made.run, samples.judged)
    now = judge(given, right, samples.judged, measure, samples.heads)
    tell("timing", 0.9)
    speeds = race({"original": before, "variant": made.run}, samples.judged)

    def figures(file: bytes, counted: bytes, speed: Speed, judgement: Judgement) -> Figures:
        parameters, nonzero = onnx_files.count(counted)
        return Figures(
            bytes=len(file),
            compressed_bytes=onnx_files.compressed(file),
            parameters=parameters,
            nonzero_parameters=nonzero,
            latency_p50_us=speed.p50_us,
            latency_p99_us=speed.p99_us,
            throughput=speed.throughput,
            accuracy=judgement.accuracy,
            accuracy_drop=was.accuracy - judgement.accuracy,
            measure=str(judgement.measure),
            evaluated=judgement.evaluated,
            evaluated_on=samples.judged_on,
        )

    return (
        figures(made.served, made.onnx, speeds["variant"], now),
        figures(original.onnx, original.onnx, speeds["original"], was),
    )


def store_variant(
    store: ArtifactStore, spec: Spec, variant: Variant, original: Original, made: Made, figures: Figures
) -> str:
    """Stores the variant's package: its file, golden requests with its own answers, where it comes from; its digest."""
    project, package = spec.project, original.package
    files = {name: digest for name, digest in package.files.items() if name not in (WEIGHTS, ONNX, PT2, GOLDEN)}
    files = {name: digest for name, digest in files.items() if not name.startswith(ENGINES) or name == FACTS}
    inputs = {tensor.name: original.golden[tensor.name] for tensor in package.signature.inputs}
    run = made.run if made.engine is None else original.run()
    files[GOLDEN] = store.put_bytes(project, _golden(original, inputs, run))
    if made.engine is not None:  # what ONNX Runtime answers where the engine does not fit is the original's own
        files |= {name: package.files[name] for name in (WEIGHTS,) if name in package.files}
        folder = made.engine.file.rpartition("/")[0]
        files[f"{folder}/{GOLDEN}"] = store.put_bytes(project, _golden(original, inputs, made.run))
    files[ONNX] = store.put_bytes(project, made.onnx)
    for name, data in made.files.items():
        files[name] = store.put_bytes(project, data)
    lineage: dict[str, Any] = dict(package.lineage) | {"variant": variant.name}
    if spec.parent:
        lineage["parent"] = spec.parent
    if spec.optimization:
        lineage["optimization"] = spec.optimization
    if variant.needs_training and variant.shrink == "distill" and spec.parent:
        lineage["teacher"] = spec.parent
    if spec.dataset:
        lineage["datasets"] = tuple(sorted({spec.dataset, *lineage.get("datasets", ())}))
    metrics = {figures.measure: figures.accuracy, f"{figures.measure}_drop": figures.accuracy_drop}
    whole = ModelPackage(
        architecture=made.architecture or package.architecture,
        files=files,
        signature=package.signature,
        metrics={**metrics, "bytes": figures.bytes, "parameters": figures.parameters},
        lineage=lineage,
    )
    return store.put_bytes(project, whole.render())


def _golden(original: Original, inputs: dict[str, Array], run: Run) -> bytes:
    """Golden requests with a model's own answers, one row at a time, and how far others may be off.

    What is quantised answers a little differently in company: a range found at every request is that of the batch, and
    a rounding may fall to the other side. Twice what that comes to here is allowed.
    """
    alone, together = _alone(original, inputs, run), run(inputs)
    off = max(float(np.abs(one - other).max(initial=0.0)) for one, other in zip(alone, together, strict=True))
    tensors = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    for name, answer in zip(original.outputs, alone, strict=True):
        tensors[name] = np.ascontiguousarray(answer)
    labels = original.package.signature.labels
    if labels in original.golden:
        tensors[labels] = original.golden[labels]
    metadata = {TOLERANCES: json.dumps({"absolute": _SLACK * off})} if _SLACK * off > _EXACT else None
    return save(tensors, metadata=metadata)


def _alone(original: Original, inputs: dict[str, Array], run: Run) -> list[Array]:
    signature = original.package.signature
    if any(tensor.shape[:1] != (-1,) for tensor in (*signature.inputs, *signature.outputs)):
        return list(run(inputs))  # there is no batch
    part = Part(inputs=inputs)
    rows = [run(part.rows(slice(at, at + 1)).inputs) for at in range(len(part))]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def main() -> int:
    """Makes one variant to its end."""
    rank = session()
    spec = Spec.parse(rank.environment.read_spec())
    torch.set_num_threads(1)
    told: tuple[float, str] = (0.0, "")

    def tell(phase: str, done: float) -> None:
        # Every line becomes a write in the scheduler's store: at most one a second, and each new phase.
        now = time.monotonic()
        nonlocal told
        if phase != told[1] or now - told[0] >= _TELL_EVERY_S:
            told = (now, phase)
            rank.reporter.state(f"{100 * done:.0f}% {phase}")

    with traced(rank.environment, "optimise", "optimise") as whole:
        whole.set("variant", spec.variant)
        report = optimise(rank.store, spec, tell)
        whole.set("lepton.package", report.package)
        rank.reporter.artifact(REPORT, rank.store.put_bytes(spec.project, report.render()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
