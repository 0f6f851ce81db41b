"""What a version goes back to and what goes back to it; pure.

The ancestry of a version is written once, when it is registered: all sources of all generations before it. So what a
source has touched is one look at every version, and stays known when what lay between has been deleted.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from lepton.inference.v1.model_pb2 import Lineage, ModelVersion
from lepton.inference.v1.registry_pb2 import ModelLineage
from lepton.models.package import LineageValue

Kind = ModelLineage.Node
MOST_ANCESTRY: Final = 10_000
"""More sources than this and a version no longer fits beside its model in the store."""

_KINDS: Final[Mapping[str, "Kind.Kind.ValueType"]] = {
    "dataset": Kind.DATASET,
    "job": Kind.JOB,
    "checkpoint": Kind.CHECKPOINT,
    "code": Kind.CODE,
    "parent": Kind.MODEL_VERSION,
    "teacher": Kind.MODEL_VERSION,
    "initial_model": Kind.PACKAGE,
    "optimization": Kind.OPTIMIZATION,
}
"""What a version may have been made of, by the name of the relation."""


def lineage_of(given: Mapping[str, LineageValue]) -> Lineage:
    """The lineage that a package's manifest states, without its ancestry."""
    datasets = given.get("datasets", ())
    return Lineage(
        datasets=sorted(set(datasets)) if isinstance(datasets, tuple) else [str(datasets)],
        **{name: str(given.get(name, "")) for name in (*_KINDS, "recipe", "source")},
    )


def sources(lineage: Lineage) -> Iterator[tuple[str, str]]:
    """What a lineage names directly: (relation, name or digest)."""
    for relation in _KINDS:
        if name := getattr(lineage, relation):
            yield relation, name
    for dataset in lineage.datasets:
        if dataset != lineage.dataset:
            yield "dataset", dataset


def ancestry(lineage: Lineage, above: Iterable[ModelVersion], manifests: Iterable[Lineage] = ()) -> list[str]:
    """All that a lineage goes back to: its own sources, those of the versions above it and of unregistered packages."""
    found = {name for _, name in sources(lineage)}
    for version in above:
        found |= {version.name, version.package, *version.lineage.ancestry}
    for manifest in manifests:
        found |= {name for _, name in sources(manifest)}
    return sorted(found)


def is_touched(version: ModelVersion, source: str) -> bool:
    """Whether a version goes back to a source, or is it."""
    return bool(source) and (source in (version.name, version.package) or source in version.lineage.ancestry)


def touched(versions: Iterable[ModelVersion], source: str) -> list[ModelVersion]:
    """The versions that a source has touched, in the order of their names."""
    return sorted((version for version in versions if is_touched(version, source)), key=lambda found: found.name)


def graph(
    root: ModelVersion,
    versions: Collection[ModelVersion],
    deployments: Mapping[str, Collection[str]],
    quarantined: Collection[str] = (),
) -> ModelLineage:
    """The graph around a version: `versions` are its project's, `deployments` the versions that each one serves."""
    known = {version.name: version for version in versions}
    below = [version for version in versions if is_touched(version, root.name) or is_touched(version, root.package)]
    above = [known[name] for name in root.lineage.ancestry if name in known]
    found = ModelLineage(name=root.name)
    nodes: dict[str, ModelLineage.Node] = {}
    for version in sorted({each.name: each for each in (root, *above, *below)}.values(), key=lambda each: each.name):
        is_quarantined = bool(version.quarantine)
        nodes[version.name] = ModelLineage.Node(name=version.name, kind=Kind.MODEL_VERSION, quarantined=is_quarantined)
        for relation, source in sources(version.lineage):
            kind = _KINDS[relation]
            is_gone = kind == Kind.MODEL_VERSION and source not in known
            node = ModelLineage.Node(name=source, kind=kind, quarantined=source in quarantined, deleted=is_gone)
            nodes.setdefault(source, node)
            found.edges.add(source=source, target=version.name, relation=relation)
    for deployment, served in sorted(deployments.items()):
        for name in sorted(set(served) & set(nodes)):
            nodes.setdefault(deployment, ModelLineage.Node(name=deployment, kind=Kind.DEPLOYMENT))
            found.edges.add(source=name, target=deployment, relation="deployment")
    found.nodes.extend(nodes[name] for name in sorted(nodes))
    return found
