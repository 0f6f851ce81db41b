"""What a write of roles or grants would change, as it is shown."""

from collections.abc import Iterator

from lepton.auth.v1.access_service_pb2 import PreviewAccessChangeResponse
from lepton.cli.output import as_dict
from lepton.cli.shell import Shell


def show_preview(shell: Shell, told: PreviewAccessChangeResponse) -> None:
    """Print who would gain and lose what."""
    if not shell.printer.is_for_people:
        shell.printer.document(as_dict(told))
        return
    for line in _lines(told):
        shell.printer.text(line)
    shell.note("a dry run: nothing was changed")


def _lines(told: PreviewAccessChangeResponse) -> Iterator[str]:
    for each in told.effects:
        where = "the organisation" if each.scope == "*" else each.scope
        for verb, permissions in (("gains", each.gained), ("loses", each.lost)):
            if permissions:
                only = f" ({each.condition})" if each.condition else ""
                yield f"{each.principal} {verb} on {where}{only}: {', '.join(permissions)}"
    if told.total > len(told.effects):
        yield f"... and {told.total - len(told.effects)} more"
    if not told.effects:
        yield "nobody gains or loses anything"
