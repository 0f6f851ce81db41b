"""What compression brings: size, accuracy and served throughput of a small CNN and a small transformer.

    python -m bench.compression [--quick] [--seconds 4] [--rounds 3]

Both models are trained here on small data. Variants are made, judged on held-out samples and measured as `lepton models
optimize` does it; the proposal must keep 99.5 % of the accuracy in half the size. Then one Triton server serves three
models at once, each asked in turns by the same load (h2load, 16 calls in flight, one row each, over gRPC):

- `naive`: the float module in eager torch, Python backend, one request at a time (bench/peers/eager_torch.py);
- `onnx`: the same float model as Lepton serves it without compression, ONNX Runtime with dynamic batching;
- `optimised`: the proposed variant, served in the same way.

One instance and one thread each; server and load on cores of their own where there are two. Prints JSON.
"""

import argparse
import asyncio
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2

from bench import serving_load
from lepton.artifacts import ArtifactStore
from lepton.golden import Golden
from lepton.models import ModelPackage
from lepton.models.package import GOLDEN, ONNX, WEIGHTS
from services.agent.served_model import ServedModel
from services.inference.compress.optimise import Spec, optimise, read_original
from services.inference.compress.selection import Candidate, Rule, Target, propose
from services.inference.triton_repository import CONFIG, ServingOptions, render
from tests.harness.datasets import mnist_like, stories
from tests.harness.serving import replica
from tests.inference.compress.trained import PROJECT, VERSION, Trained, train

ROOT: Final = Path(__file__).resolve().parents[1]
CONCURRENCY: Final = 16
RULE: Final = Rule(max_accuracy_drop=0.005, max_size_ratio=0.5)
VARIANTS: Final = ("graph", "int8-dynamic", "int8-static", "pruned", "pruned-int8", "pruned-int8-dynamic")
QUICK: Final = ("int8-dynamic", "int8-static", "pruned-int8-dynamic")
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_HEADERS: Final = (("content-type", "application/grpc"), ("te", "trailers"))
_OPTIONS: Final = ServingOptions(max_batch=16, max_queue_delay_us=500)


def cnn(store: ArtifactStore, *, quick: bool) -> Trained:
    """Images of 28 x 28 pixels."""
    samples, epochs = (2500, 4) if quick else (8000, 8)
    return train(store, "image_classifier", mnist_like(samples, 3), epochs=epochs, rate=4e-3, features=32, hidden=128)


def transformer(store: ArtifactStore, *, quick: bool) -> Trained:
    """Text, 64 bytes at a time."""
    size, epochs, layers = (80_000, 6, 2) if quick else (250_000, 6, 3)
    shape = {"context": 64, "width": 96, "layers": layers, "heads": 4}
    return train(store, "language_model", stories(size, 3), epochs=epochs, rate=3e-3, **shape)


def search(model: Trained, names: Sequence[str], epochs: int) -> dict[str, Any]:
    """The variants with their figures, and the one that is proposed."""
    table: dict[str, Any] = {}
    packages: dict[str, str] = {}
    candidates: list[Candidate] = []
    for name in names:
        spec = Spec(project=PROJECT, package=model.package, variant=name, epochs=epochs, parent=VERSION)
        report = optimise(model.store, spec, _ignore)
        if report.figures is None or report.original is None:
            table[name] = {"not_applicable": report.not_applicable}
            continue
        candidates.append(Candidate(name=name, figures=report.figures, original=report.original))
        packages[name] = report.package
        each = candidates[-1]
        table[name] = {
            "size_ratio": round(each.size_ratio, 3),
            "accuracy": round(report.figures.accuracy, 4),
            "accuracy_drop": round(report.figures.accuracy_drop, 4),
            "evaluated": report.figures.evaluated,
            "parameters_ratio": round(report.figures.parameters / report.original.parameters, 3),
            "latency_ratio": round(each.latency_ratio, 3),
            "throughput_ratio": round(each.throughput_ratio, 3),
        }
        note(f"  {name}: {table[name]}")
    verdict = propose(candidates, RULE, Target.THROUGHPUT)
    return {
        "accuracy": model.accuracy,
        "variants": table,
        "refused": dict(verdict.refused),
        "proposed": verdict.name,
        "reason": verdict.reason,
        "package": packages.get(verdict.name, ""),
    }


async def served(model: Trained, package: str, *, seconds: float, rounds: int) -> dict[str, Any]:
    """Calls answered in a second by each of the three, asked in turns, on one server."""
    original = read_original(model.store, PROJECT, model.package)
    manifest = ModelPackage.parse(model.store.read(PROJECT, package))
    golden = model.store.read(PROJECT, original.package.files[GOLDEN])
    models = [
        _naive(model, golden),
        _lepton("bench.onnx", original.onnx, original.package, golden),
        _lepton(
            "bench.optimised",
            model.store.read(PROJECT, manifest.files[ONNX]),
            manifest,
            model.store.read(PROJECT, manifest.files[GOLDEN]),
        ),
    ]
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = (cores[:1], cores[1:2]) if len(cores) > 1 else (cores, cores)
    rates: dict[str, list[float]] = {each.name: [] for each in models}
    latencies: dict[str, list[float]] = {each.name: [] for each in models}
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
        os.sched_setaffinity(0, theirs)  # what is started from here on inherits it
        try:
            async with replica(Path(folder) / "replica", models) as running:
                await running.ready(deadline_s=120)
                os.sched_setaffinity(0, cores)
                for _ in range(rounds):
                    for each in models:
                        call = serving_load.Call(
                            url=f"http://{running.endpoint.host}:{running.endpoint.port}{_INFER}",
                            body=_body(each),
                            headers=_HEADERS,
                        )
                        seen = await asyncio.to_thread(
                            serving_load.load,
                            call,
                            concurrency=CONCURRENCY,
                            seconds=seconds,
                            cores=ours,
                            spent_s=lambda: 0.0,
                        )
                        if not seen.are_answers(_answer_bytes(each), slack=0.2):
                            raise SystemExit(f"{each.name} gave other answers than expected: {asdict(seen)}")
                        rates[each.name].append(seen.rate)
                        latencies[each.name].append(seen.p50_us)
                        note(f"  {each.name}: {seen.rate:.0f}/s, p50 {seen.p50_us:.0f} us")
        finally:
            os.sched_setaffinity(0, cores)
    found = {name.removeprefix("bench."): median(each) for name, each in rates.items()}
    return {
        "calls_per_s": {name: round(rate, 1) for name, rate in found.items()},
        "p50_us": {name.removeprefix("bench."): round(median(each)) for name, each in latencies.items()},
        "throughput_ratio": round(found["optimised"] / found["naive"], 2),
        "of_it_by_onnx_and_batching": round(found["onnx"] / found["naive"], 2),
        "of_it_by_compression": round(found["optimised"] / found["onnx"], 2),
        "concurrency": CONCURRENCY,
        "server_cores": theirs,
        "load_cores": ours,
    }


def note(text: str) -> None:
    """A remark on standard error."""
    print(text, file=sys.stderr, flush=True)


def _naive(model: Trained, golden: bytes) -> ServedModel:
    package = ModelPackage.parse(model.store.read(PROJECT, model.package))
    assert package.architecture is not None
    one = ServingOptions(max_batch=1, max_queue_delay_us=0)
    files = dict(render("bench.naive", b"", package.signature, one))
    path = json.dumps([sysconfig.get_path("purelib"), str(ROOT / "sdk")])
    architecture = json.dumps(package.architecture.to_json())
    config = files[CONFIG].decode()
    for key, value in (("path", path), ("architecture", architecture)):
        config += f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}\n"
    files[CONFIG] = config.encode()
    del files["1/model.onnx"]
    files["1/model.py"] = (ROOT / "bench/peers/eager_torch.py").read_bytes()
    files["1/weights.safetensors"] = model.store.read(PROJECT, package.files[WEIGHTS])
    return ServedModel(name="bench.naive", files=files, golden=Golden.parse(golden, config))


def _lepton(name: str, onnx: bytes, package: ModelPackage, golden: bytes) -> ServedModel:
    files = dict(render(name, onnx, package.signature, _OPTIONS))
    return ServedModel(name=name, files=files, golden=Golden.parse(golden, files[CONFIG].decode()))


def _body(model: ServedModel) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model.name)
    for name, array in model.golden.inputs.items():
        row = np.ascontiguousarray(array[:1])
        datatype = "INT64" if row.dtype == np.int64 else "FP32"
        request.inputs.add(name=name, datatype=datatype, shape=row.shape)
        request.raw_input_contents.append(row.tobytes())
    message: bytes = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def _answer_bytes(model: ServedModel) -> int:
    return sum(array[:1].nbytes for array in model.golden.outputs.values()) + 60


def _ignore(_phase: str, _done: float) -> None:
    pass


def _check() -> None:
    if problem := serving_load.missing():
        raise SystemExit(problem)


def main() -> None:
    """Trains, searches, serves, and prints what came of it."""
    parser = argparse.ArgumentParser(description="Measures compression and optimised serving.")
    parser.add_argument("--quick", action="store_true", help="smaller models and fewer variants")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load for each contender in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=("cnn", "transformer"), help="only this one")
    given = parser.parse_args()
    _check()
    results: dict[str, Any] = {}
    for name, make in (("cnn", cnn), ("transformer", transformer)):
        if given.model in (None, name):
            with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
                model = make(ArtifactStore(f"file://{folder}"), quick=given.quick)
                note(f"{name}: trained, accuracy {model.accuracy:.4f}")
                results[name] = search(model, *((QUICK, 3) if given.quick else (VARIANTS, 12)))
                note(f"  {results[name]['reason']}")
                if package := results[name].pop("package"):
                    results[name]["served"] = asyncio.run(
                        served(model, package, seconds=given.seconds, rounds=given.rounds)
                    )
    print(json.dumps({"bench": "compression", "rule": asdict(RULE), **results}, indent=2))


if __name__ == "__main__":
    main()
