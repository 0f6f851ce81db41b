"""`lepton models lineage`: where a version comes from, what a dataset has touched, and quarantine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from lepton.artifacts import digest_of
from lepton.cli.deploy import parse_model
from lepton.cli.output import as_dict
from lepton.cli.shell import Shell
from lepton.inference.v1.registry_pb2 import ModelLineage, Taint

Kind = ModelLineage.Node
_KINDS: Final[Mapping[int, str]] = {
    Kind.DATASET: "dataset",
    Kind.JOB: "job",
    Kind.CHECKPOINT: "checkpoint",
    Kind.CODE: "code",
    Kind.PACKAGE: "package",
    Kind.OPTIMIZATION: "optimisation",
    Kind.DEPLOYMENT: "deployment",
}


async def lineage(
    shell: Shell,
    model: Annotated[
        str, typer.Argument(metavar="[MODEL[@VERSION|:ALIAS]]", help="Whose lineage; or give --taint.")
    ] = "",
    taint: Annotated[
        str,
        typer.Option(help="What has this touched? A dataset's digest or file, a job's or a version's whole name."),
    ] = "",
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Take all that it has touched out of service.")
    ] = False,
    release: Annotated[bool, typer.Option("--release", help="Let it back.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for --quarantine.")] = "",
) -> int | None:
    """Show what a version was made of and what was made of it, or what a dataset has touched.

    \b
    lepton models lineage digits@3
    lepton models lineage --taint sha256:4f2a..
    lepton models lineage --taint sha256:4f2a.. --quarantine --reason "labels were swapped"
    lepton models lineage --taint sha256:4f2a.. --release

    Touched is whatever goes back to it through any number of steps: trained on it, trained on from such weights,
    distilled from such a teacher, optimised. A quarantined version cannot be deployed, and the gateway sends it no
    calls; neither does it to what is registered later and goes back to the same source. All of it is in the audit log.
    """
    if bool(model) == bool(taint) or (quarantine and release) or ((quarantine or release) and not taint):
        raise typer.BadParameter("give either a version, or --taint SOURCE and perhaps one of --quarantine, --release")
    async with shell.client() as client:
        if model:
            version = await client.models.get_version(*parse_model(model))
            _show_graph(shell, await client.models.lineage(version.name))
            return None
        source = _source(taint)
        if quarantine:
            found = await client.models.quarantine(source, reason)
        elif release:
            found = await client.models.release(source)
        else:
            found = await client.models.taint(source)
        _show_taint(shell, found)
    return None


def _source(text: str) -> str:
    """A source as the registry names it; a file by the digest of its bytes."""
    if not text.startswith(("sha256:", "projects/")) and Path(text).is_file():
        return digest_of(Path(text).read_bytes())
    return text


def _show_taint(shell: Shell, taint: Taint) -> None:
    if not shell.printer.is_for_people:
        shell.printer.document(as_dict(taint))
        return
    quarantined = taint.HasField("quarantine")
    shell.printer.text(f"{taint.source}{_since(taint) if quarantined else ''}")
    for version in taint.versions:
        mark = "  quarantined" if version.quarantine else ""
        shell.printer.text(f"  {_short(version.name)}{mark}")
        for deployment in taint.deployments:
            if deployment.model_version == version.name:
                where = f"{deployment.model_name} at {deployment.gateway}"
                shell.printer.text(f"    served by {_short(deployment.name)}: {where}")
    if not taint.versions:
        shell.printer.text("  has touched no version")


def _since(taint: Taint) -> str:
    cause = taint.quarantine
    who = f" by {cause.principal}" if cause.principal else ""
    why = f": {cause.reason}" if cause.reason else ""
    return f"  quarantined {cause.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC{who}{why}"


def _show_graph(shell: Shell, graph: ModelLineage) -> None:
    if not shell.printer.is_for_people:
        shell.printer.document(as_dict(graph))
        return
    for line in drawn(graph):
        shell.printer.text(line)


def drawn(graph: ModelLineage) -> Iterator[str]:
    """The graph as two trees: what the version was made of, and what was made of it."""
    nodes = {node.name: node for node in graph.nodes}
    yield _label(nodes[graph.name])
    yield "made of"
    yield from _branches(graph, nodes, graph.name, is_up=True)
    yield "used by"
    yield from _branches(graph, nodes, graph.name, is_up=False)


def _branches(graph: ModelLineage, nodes: Mapping[str, ModelLineage.Node], name: str, *, is_up: bool) -> Iterator[str]:
    stack, seen = [(name, 0)], {name}
    is_alone = True
    while stack:
        at, depth = stack.pop()
        if depth:
            is_alone = False
            yield f"{'  ' * depth}{_label(nodes[at])}"
        edges = [edge for edge in graph.edges if (edge.target if is_up else edge.source) == at]
        for edge in reversed(edges):
            following = edge.source if is_up else edge.target
            if following not in seen:
                seen.add(following)
                stack.append((following, depth + 1))
    if is_alone:
        yield "  nothing that is known"


def _label(node: ModelLineage.Node) -> str:
    kind = _KINDS.get(node.kind, "")
    marks = "  quarantined" * node.quarantined + "  deleted" * node.deleted
    return f"{kind} {_short(node.name)}{marks}".strip()


def _short(name: str) -> str:
    """A name as the other commands take it: `digits@3`; digests by their first digits."""
    parts = name.split("/")
    if len(parts) == 6 and parts[4] == "versions":
        return f"{parts[3]}@{parts[5]}"
    if name.startswith("sha256:"):
        return name[:19]
    return parts[-1]
