"""Shows optimisations: a line for each variant that moves, and the table of what was measured."""

from typing import Final

from rich.table import Table
from rich.text import Text

from lepton.cli.cells import state
from lepton.cli.output import Column, as_dict
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.client.optimizations import ENDED
from lepton.inference.v1.optimization_pb2 import Measurement, Optimization, OptimizationVariant

Variant = OptimizationVariant
COLUMNS: Final = (
    Column("NAME", lambda each: "/".join(each.name.split("/")[3::2])),
    Column("STATE", state),
    Column("DONE", lambda each: f"{each.percent:.0f}%"),
    Column("TARGET", lambda each: Optimization.Target.Name(each.target).lower()),
    Column("PROPOSED", lambda each: each.proposed or "-"),
    Column("MESSAGE", lambda each: each.message),
)
_STEP: Final = 25.0
"""Percent between two lines about one variant."""


async def follow(shell: Shell, client: AsyncClient, name: str, timeout_s: float) -> Optimization:
    """The optimisation when it has ended; until then every change of a variant is a line on standard error."""
    said: dict[str, tuple[str, str, int]] = {}

    def look(each: Optimization) -> bool:
        for variant in each.variant_states:
            word = Variant.State.Name(variant.state)
            now = (word, variant.phase, int(variant.percent // _STEP))
            if said.get(variant.variant) != now and variant.state != Variant.PENDING:
                said[variant.variant] = now
                shell.note(f"{each.percent:3.0f}%  {variant.variant:20} {word:14} {_doing(variant)}".rstrip())
        return each.state in ENDED

    return await client.optimizations.wait(name, until=look, timeout_s=timeout_s or None)


def show(shell: Shell, optimization: Optimization) -> None:
    """The optimisation with all its variants, best first; `*` marks the proposed one, `+` those on the Pareto front."""
    if not shell.printer.is_for_people:
        if shell.printer.form.value == "name":
            shell.printer.text(optimization.name)
        else:
            shell.printer.document(as_dict(optimization))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    for title in ("", "VARIANT", "STATE", "SIZE", "P50 US", "P99 US", "ROWS/S", _measure(optimization), "DROP", "NOTE"):
        table.add_column(title, no_wrap=True, overflow="ignore")
    if optimization.HasField("original"):
        table.add_row("", "original", "", *_figures(optimization.original, optimization.original), "")
    for variant in sorted(optimization.variant_states, key=_rank):
        mark = "*" if variant.is_proposed else "+" if variant.is_pareto else ""
        word = Variant.State.Name(variant.state)
        cells = _figures(variant.measurement, variant.original) if variant.HasField("measurement") else ["-"] * 6
        table.add_row(*(Text(cell) for cell in (mark, variant.variant, word, *cells, variant.message)))
    shell.printer.table(table)
    shell.printer.text(f"{state(optimization)}: {optimization.message}")


def _doing(variant: Variant) -> str:
    if variant.state == Variant.RUNNING:
        return f"{variant.percent:.0f}% {variant.phase}"
    if variant.HasField("measurement"):
        measured, original = variant.measurement, variant.original
        faster = original.latency_p50_us / max(measured.latency_p50_us, 1e-9)
        return (
            f"{100 * measured.bytes / max(original.bytes, 1):.0f} % of the size, {faster:.2f}x as fast, "
            f"drop {100 * measured.accuracy_drop:.2f} %"
        )
    return variant.message


def _figures(measured: Measurement, original: Measurement) -> list[str]:
    return [
        f"{measured.bytes} ({100 * measured.bytes / max(original.bytes, 1):.0f}%)",
        f"{measured.latency_p50_us:.0f} ({original.latency_p50_us / max(measured.latency_p50_us, 1e-9):.2f}x)",
        f"{measured.latency_p99_us:.0f}",
        f"{measured.throughput:.0f} ({measured.throughput / max(original.throughput, 1e-9):.2f}x)",
        f"{measured.accuracy:.4f}",
        f"{100 * measured.accuracy_drop:.2f}%",
    ]


def _measure(optimization: Optimization) -> str:
    return (optimization.original.measure or "accuracy").upper()


def _rank(variant: Variant) -> tuple[bool, int, float, str]:
    measured, original = variant.measurement, variant.original
    cost = measured.latency_p50_us / original.latency_p50_us if original.latency_p50_us else 0.0
    return not variant.is_proposed, variant.state, cost, variant.variant
