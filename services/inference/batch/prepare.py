"""The preparation program of a batch prediction: the model's ONNX file, the dataset's shards, the plan of both.

Run by an agent as `python -m services.inference.batch.prepare` with LEPTON_SPEC naming a JSON file (see `PrepareSpec`);
it reports one artifact named `plan`.
"""

import json
import sys
from dataclasses import dataclass
from typing import Final, Self

from lepton.artifacts import ArtifactStore, parse_digest
from lepton.errors import InvalidArgument
from lepton.inference.v1 import batch_prediction_pb2 as pb
from lepton.models import ModelPackage
from lepton.models.package import FACTS, ONNX
from lepton.tracing import span
from lepton.train import session
from lepton.train.traced import traced
from services.inference.batch.division import TableFacts, form_of, rows_of, shard_size
from services.inference.batch.documents import Plan, Shard
from services.inference.batch.fitness import check_signature
from services.inference.compress.export_onnx import ExportSpec, export

ARTIFACT: Final = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSpec:
    """Which package predicts for which dataset of a project, and how its rows are divided."""

    project: str
    package: str
    dataset: str
    form: str
    columns: tuple[str, ...]
    output: str
    workers: int
    shard_rows: int
    batch_size: int
    allow_missing: bool

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The spec that a JSON object holds; InvalidArgument when it holds none."""
        try:
            document = json.loads(data)
            return cls(
                project=str(document["project"]),
                package=parse_digest(document["package"]),
                dataset=parse_digest(document["dataset"]),
                form=str(document["form"]),
                columns=tuple(map(str, document["columns"])),
                output=str(document["output"]),
                workers=int(document["workers"]),
                shard_rows=int(document["shard_rows"]),
                batch_size=int(document["batch_size"]),
                allow_missing=bool(document["allow_missing"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument("INVALID_FIELD", fields={"spec": str(error)}) from error


def prepare(store: ArtifactStore, spec: PrepareSpec) -> str:
    """Stores the shards and the plan; the plan's digest. Raises InvalidArgument (BATCH_INPUT_INVALID)."""
    package = ModelPackage.parse(store.read(spec.project, spec.package))
    check_signature(package.signature)
    with span("batch.divide"):
        data = store.read(spec.project, spec.dataset)
        form = form_of(data, pb.BatchInput.Format.Value(spec.form))
        facts = TableFacts()
        if FACTS in package.files:
            facts = TableFacts.parse(store.read(spec.project, package.files[FACTS]))
        rows = rows_of(data, form, spec.columns, package.signature, facts)
        if not rows.count:
            raise InvalidArgument("BATCH_INPUT_INVALID", problem="it has no rows")
        size = shard_size(rows.count, spec.workers, spec.shard_rows)
        shards = tuple(
            Shard(start=start, rows=count, data=store.put_bytes(spec.project, part))
            for start, count, part in rows.parts(size)
        )
    with span("batch.model"):
        exported = ExportSpec(project=spec.project, package=spec.package)
        onnx = package.files[ONNX] if ONNX in package.files else export(store, exported)
    plan = Plan(
        onnx=onnx,
        signature=package.signature,
        input=rows.kind,
        output=spec.output,
        batch_size=spec.batch_size,
        shards=shards,
        allow_missing=spec.allow_missing or bool(facts.columns),
    )
    return store.put_bytes(spec.project, plan.render())


def main() -> int:
    """Prepares one batch prediction."""
    rank = session()
    spec = PrepareSpec.parse(rank.environment.read_spec())
    with traced(rank.environment, "prepare-batch", "batch.prepare") as whole:
        digest = prepare(rank.store, spec)
        whole.set("lepton.plan", digest)
    rank.reporter.artifact(ARTIFACT, digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
