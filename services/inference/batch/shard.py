"""The program of one task of a batch prediction: predicts one shard, stores its file and its report.

Run by an agent as `python -m services.inference.batch.shard --plan sha256:.. --area batches/<uid>`, a task of an array:
LEPTON_ARRAY_INDEX is the shard. The scheduler gives a shard to one task at a time. The report is stored last,
under a name that its content gives: whatever dies before that leaves nothing that counts, and a shard that is run again
reports the same.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnxruntime

from lepton.artifacts import ArtifactStore, parse_digest
from lepton.errors import FailedPrecondition, LeptonError
from lepton.tracing import parse, span, tracing
from services.inference.batch.bad_row import BadRow
from services.inference.batch.documents import Plan, ShardReport
from services.inference.batch.prediction import predict
from services.inference.batch.reading import Array, read
from services.inference.batch.writing import write

_AREA: Final = re.compile(r"batches/[0-9a-f-]{8,64}")


def run_shard(store: ArtifactStore, project: str, plan: Plan, index: int, area: str, threads: int = 1) -> ShardReport:
    """Predicts a shard and stores what came of it; the report lies in `area` too, where it is looked for."""
    if not 0 <= index < len(plan.shards):
        raise FailedPrecondition("BATCH_INPUT_INVALID", problem=f"the plan has no shard {index}")
    shard = plan.shards[index]
    model = _OnnxModel(store.read(project, plan.onnx), plan, threads)
    data = store.read(project, shard.data)
    rows = read(data, plan.input, shard.start, plan.signature, allow_missing=plan.allow_missing)
    done = list(predict(model, rows, shard.start, plan.batch_size))
    file = store.put_bytes(project, write(plan.output, done, plan.signature))
    bad = tuple(each for each in done if isinstance(each, BadRow))
    report = ShardReport(shard=index, start=shard.start, rows=shard.rows, file=file, bad=bad)
    store.put_bytes(project, report.render())
    store.put_bytes(project, report.render(), area=area)
    return report


class _OnnxModel:
    """A model in ONNX Runtime, as something that can be called."""

    def __init__(self, onnx: bytes, plan: Plan, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # a row that the model fails on is reported, not logged
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._names = [tensor.name for tensor in plan.signature.outputs]

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


def main() -> int:
    """Predicts one shard."""
    parser = argparse.ArgumentParser(description="Predicts one shard of a batch prediction.")
    parser.add_argument("--plan", required=True, help="digest of the plan")
    parser.add_argument("--area", required=True, help="where the report is looked for")
    parser.add_argument("--threads", type=int, default=1, help="threads of the model")
    options = parser.parse_args()
    if _AREA.fullmatch(options.area) is None:
        parser.error("--area must be batches/ and the id of a batch prediction")
    place = os.environ
    try:
        project, index = place["LEPTON_PROJECT"], int(place["LEPTON_ARRAY_INDEX"])
        store = ArtifactStore(place["LEPTON_ARTIFACTS"])
    except (KeyError, ValueError) as error:
        print(f"this is no task of an array: {error}", file=sys.stderr)
        return 2
    above = parse(place.get("TRACEPARENT", ""))
    endpoint = place.get("OTEL_EXPORTER_OTLP_ENDPOINT", "") if above is not None and above.is_sampled else ""
    certificate = place.get("OTEL_EXPORTER_OTLP_CERTIFICATE", "")
    try:
        with (
            tracing("batch-shard", otlp_endpoint=endpoint, otlp_certificate=Path(certificate) if certificate else None),
            span("batch.shard", parent=place.get("TRACEPARENT", "")) as whole,
        ):
            whole.set("lepton.shard", index)
            plan = Plan.parse(store.read(project, parse_digest(options.plan)))
            run_shard(store, project, plan, index, options.area, options.threads)
    except (LeptonError, OSError, onnxruntime.capi.onnxruntime_pybind11_state.Fail) as error:
        print(f"shard {index}: {error}", file=sys.stderr)  # the last line is what is kept of a task that failed
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
