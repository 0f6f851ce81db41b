"""A model version in words, for people."""

from collections.abc import Iterator

from lepton.inference.v1.model_pb2 import ModelVersion, TensorSpec


def described(version: ModelVersion) -> Iterator[str]:
    """What is known of a version, line by line."""
    lineage = version.lineage
    facts = {
        "version": version.name,
        "description": version.description,
        "stage": ModelVersion.Stage.Name(version.stage or ModelVersion.NONE).lower(),
        "quarantine": "; ".join(f"{each.source} {each.reason}".strip() for each in version.quarantine),
        "tags": _pairs(dict(version.tags)),
        "takes": ", ".join(map(_tensor, version.inputs)),
        "gives": ", ".join(map(_tensor, version.outputs)),
        "metrics": ", ".join(f"{name} {value:.6g}" for name, value in sorted(version.metrics.items())),
        "runs as": ", ".join(version.forms),
        "size": f"{version.size_bytes} bytes",
        "package": version.package,
        "job": lineage.job,
        "dataset": ", ".join([*filter(None, [lineage.dataset]), *lineage.datasets]),
        "checkpoint": lineage.checkpoint,
        "recipe": lineage.recipe,
        "code": lineage.code,
        "parent": lineage.parent,
        "teacher": lineage.teacher,
        "initial model": lineage.initial_model,
        "optimisation": lineage.optimization,
        "source": lineage.source,
        "created": f"{version.create_time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC",
        "etag": version.etag,
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            yield f"{name:<{width}}  {value}"


def _tensor(tensor: TensorSpec) -> str:
    sizes = ", ".join("any" if size == -1 else str(size) for size in tensor.shape)
    return f"{tensor.name} {tensor.datatype}[{sizes}]"


def _pairs(marks: dict[str, str]) -> str:
    return ", ".join(f"{key}={marks[key]}" for key in sorted(marks))
