"""Curves as a picture: one axes for each kind of metric, one colour for each job, restarts marked."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from lepton.curves.curves import HIDDEN, Curve, Curves
from lepton.errors import FailedPrecondition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

By = Literal["step", "epoch", "minute"]
_PARTS: Final = ("", "train_", "held_out_", "validation_", "test_")
_STYLES: Final = {"": "-", "train_": "-", "held_out_": "--", "validation_": "--", "test_": ":"}
_USUAL: Final = ("loss", "accuracy")
_LINE, _STEP, _STEPS = 1.3, 1.2, 3  # points
_WIDTH_INCHES, _HEIGHT_INCHES, _DPI = 9.0, 3.6, 150


def plot(curves: Sequence[Curves], *, metrics: Sequence[str] = (), by: By = "step", log: bool = False) -> "Figure":
    """A figure of the metrics of some jobs; without metrics of loss and accuracy, else of all.

    `loss` means also `validation_loss` and its like, dashed. Raises FailedPrecondition (EXTRA_MISSING without
    matplotlib, NOTHING_MEASURED).
    """
    figure_class, canvas = _library()
    rows = _rows(curves, metrics)
    figure: Figure = figure_class(figsize=(_WIDTH_INCHES, 0.6 + _HEIGHT_INCHES * len(rows)), layout="constrained")
    canvas(figure)
    for number, (title, names) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, number + 1)
        _draw(axes, curves, names, by)
        axes.set_ylabel(title)
        axes.grid(visible=True, alpha=0.25)
        if log:
            axes.set_yscale("log")
        if number == len(rows) - 1:
            axes.set_xlabel({"step": "step", "epoch": "epoch", "minute": "minutes since the first measurement"}[by])
    return figure


def save(figure: "Figure", file: Path) -> None:
    """Writes a figure, whole or not at all, in the format that the file's ending says."""
    aside = file.with_name(f".{file.stem}.part{file.suffix}")
    try:
        figure.savefig(aside, dpi=_DPI)
        aside.rename(file)
    finally:
        aside.unlink(missing_ok=True)


def _rows(curves: Sequence[Curves], wished: Sequence[str]) -> list[tuple[str, list[str]]]:
    measured = sorted({name for each in curves for name in each.names})
    bases = list(dict.fromkeys(wished)) or [base for base in _USUAL if _variants(base, measured)]
    bases = bases or [name for name in measured if name not in HIDDEN]
    rows = [(base, _variants(base, measured)) for base in bases]
    missing = [base for base, names in rows if not names]
    if missing or not rows:
        jobs = ", ".join(each.job_id for each in curves)
        told = ", ".join(measured) or "nothing yet"
        raise FailedPrecondition("NOTHING_MEASURED", job=jobs, measured=f"{', '.join(missing)}: not among {told}")
    return rows


def _variants(base: str, measured: Sequence[str]) -> list[str]:
    return [f"{part}{base}" for part in _PARTS if f"{part}{base}" in measured]


def _draw(axes: "Axes", curves: Sequence[Curves], names: Sequence[str], by: By) -> None:
    for index, each in enumerate(curves):
        colour = f"C{index % 10}"
        drawn = [each[name] for name in names if name in each]
        for curve in drawn:
            # Equal curves lie on each other: the one below shows at both sides of that above it.
            width = _LINE + _STEP * min(len(curves) - 1 - index, _STEPS)
            _line(axes, curve, by, colour, width, f"{each.job_id}: {curve.name}")
        if drawn:
            _mark_restarts(axes, each, drawn, by, colour, is_alone=len(curves) == 1)
    count = sum(name in each for each in curves for name in names)
    # Many names would cover the curves: they stand beside them then.
    place: dict[str, Any] = {"loc": "best"} if count <= 6 else {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axes.legend(fontsize=8, framealpha=0.85, **place)


def _line(axes: "Axes", curve: Curve, by: By, colour: str, width: float, label: str) -> None:
    part = next(part for part in reversed(_PARTS) if curve.name.startswith(part))
    marker = "o" if len(curve) <= 30 else ""
    places = _places(curve, by)
    shown = [value if math.isfinite(value) else math.nan for value in curve.values]
    axes.plot(
        places, shown, color=colour, linestyle=_STYLES[part], marker=marker, markersize=3, linewidth=width, label=label
    )
    for place, value, before in zip(places, curve.values, [math.nan, *shown], strict=False):
        if not math.isfinite(value) and math.isfinite(before):
            axes.plot([place], [before], color="crimson", marker="x", markersize=8, linestyle="")  # it has diverged


def _mark_restarts(
    axes: "Axes", curves: Curves, drawn: Sequence[Curve], by: By, colour: str, *, is_alone: bool
) -> None:
    for generation, step in curves.restarts:
        place = next(
            (place for curve in drawn for place, at in zip(_places(curve, by), curve.steps, strict=True) if at >= step),
            None,
        )
        if place is None:
            continue
        axes.axvline(place, color=colour if not is_alone else "0.4", linestyle=(0, (2, 3)), linewidth=1)
        words = f"generation {generation}" if is_alone else f"gen {generation}"
        axes.annotate(
            words, (place, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -9), textcoords="offset points",
            fontsize=7, color=colour if not is_alone else "0.3",
        )  # fmt: skip


def _places(curve: Curve, by: By) -> Sequence[float]:
    return {"step": curve.steps, "epoch": curve.epochs, "minute": curve.minutes}[by]


def _library() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws into memory: needs no display
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise FailedPrecondition("EXTRA_MISSING", extra="plots", package=str(error.name)) from error
    return Figure, FigureCanvasAgg
