"""How the scheduler's figures grow with size, as plots: `python -m bench.plots FIGURES.json FOLDER [--name NAME]`.

FIGURES is what `python -m bench.scheduler --json` wrote; a row that was not measured has no plot.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_SIZE: Final = (6.0, 3.6)  # inches
_DPI: Final = 90
_SPACING: Final = "#cccccc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One plot: lines over sizes, and levels to compare them with."""

    name: str
    title: str
    across: str
    up: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    levels: Mapping[str, float] = field(default_factory=dict)


def plots(figures: Mapping[str, Any]) -> list[Plot]:
    """What there is to see in the figures."""
    found = [_placement(figures.get("7_placement", {})), _durable(figures.get("8_durable_jobs", {}))]
    found += [_noop(figures.get("9_noop_jobs", {}))]
    return [each for each in found if any(each.lines.values())]


def _placement(row: Mapping[str, Any]) -> Plot:
    lines = {
        name.replace("_", " "): [(each["nodes"], each["placements_per_s"]) for each in growth]
        for name, growth in row.get("growth", {}).items()
    }
    return Plot(
        name="placement", title="Placement, without a store", across="nodes", up="placements/s", lines=lines,
        levels={"goal": 100_000.0},
    )  # fmt: skip


def _durable(row: Mapping[str, Any]) -> Plot:
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in row.get("arrays", ()):
        line = lines.setdefault(f"tasks of arrays of {each['per_array']:,}", [])
        line.append((each["tasks"], each["placed_per_s"]))
    single = [(each["jobs"], each["placed_per_s"]) for each in row.get("by_size", ())]
    if single:
        lines["a workload for each"] = single
    levels = {"goal": 30_000.0}
    if "etcd" in row:
        levels["one transaction for each"] = row["etcd"]["one_txn_per_change_per_s"]
    return Plot(
        name="durable", title="Submitted by RPC and durably placed", across="tasks", up="placed/s", lines=lines,
        levels=levels,
    )  # fmt: skip


def _noop(row: Mapping[str, Any]) -> Plot:
    def line(key: str) -> list[tuple[float, float]]:
        return [(float(size), rate) for size, rate in row.get(key, {}).items()]

    lines = {"tasks of one array": line("tasks_by_size"), "a workload for each": line("by_size")}
    levels = {}
    if "posix_spawn_per_s" in row:
        levels["posix_spawn"] = float(row["posix_spawn_per_s"]["median"])
    for peer in ("slurm", "dask", "ray"):
        found = row.get(peer, {})
        rate = next((found[key] for key in ("process", "jobs_per_s") if key in found), None)
        if rate is not None:
            levels[peer] = float(rate)
    return Plot(
        name="noop", title="Processes to all done", across="processes", up="processes/s",
        lines={name: points for name, points in lines.items() if points}, levels=levels,
    )  # fmt: skip


def draw(plot: Plot, path: Path) -> None:
    """One PNG, of some tens of kilobytes."""
    import matplotlib as mpl  # seldom wanted, and slow to load

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, dpi=_DPI, layout="constrained")
    for name, points in plot.lines.items():
        ordered = sorted(points)
        axes.plot([at for at, _ in ordered], [value for _, value in ordered], marker="o", label=name)
    for name, value in plot.levels.items():
        axes.axhline(value, linestyle="--", linewidth=1, color="grey")
        axes.annotate(name, (1.0, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(plot.across)
    axes.set_ylabel(plot.up)
    axes.set_title(plot.title, fontsize=10)
    axes.grid(visible=True, which="both", color=_SPACING, linewidth=0.4)
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Read, draw, and say what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="scheduler", help="what the files' names begin with")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for plot in plots(json.loads(given.figures.read_text())):
        path = given.folder / f"{given.name}-{plot.name}.png"
        draw(plot, path)
        print(path)


if __name__ == "__main__":
    main()
