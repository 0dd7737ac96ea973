"""The pictures of a calibration: the faults on a few real images, and every value against the strength of each fault."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ganlib.metrics import needs
from ganlib.metrics.calibration import Calibration
from ganlib.metrics.faults import FAULTS, Altered, Fault, Held, Picked, short
from pipeline.report.plots import GREY, REAL, save, show
from pipeline.report.text import as_written

BLIND, SEEN = "#b5bcc4", "#e8833a"
SIDE = 3  # images along each side of a field of the ladder
MAX_STRENGTHS = 4
COLUMNS = 3  # plots beside one another
FIELD_INCHES = 1.5
NOTE_INCHES = 0.25


@as_written()
def ladder(path: Path, calibration: Calibration, held: Held) -> None:
    """A row a fault, a column a strength, all of the same nine real images where a fault is in the pixels, else of nine that it picks."""
    rows = [(name, rungs) for name, rungs in calibration.faults.items() if rungs.applies]
    shape = held.images.shape
    tall = min(2.0, max(0.5, shape[1] / shape[2]))
    figure = Figure(figsize=(1.7 + (1 + MAX_STRENGTHS) * FIELD_INCHES, len(rows) * (0.8 * FIELD_INCHES * tall + 0.4) + NOTE_INCHES))
    real = held.images.gather(held.fake[: SIDE * SIDE])
    for i, (name, rungs) in enumerate(rows):
        fault: Fault = FAULTS.get(name)()
        fields = [("real", real, REAL)]
        for strength in rungs.strengths[:MAX_STRENGTHS]:
            is_seen = any(strength in calibration.seen(key, name) for key in calibration.metrics)
            fields.append((short(strength), _shown(fault.make(held, strength)), SEEN if is_seen else BLIND))
        for j, (title, images, color) in enumerate(fields):
            axes = figure.add_subplot(len(rows), 1 + MAX_STRENGTHS, i * (1 + MAX_STRENGTHS) + j + 1)
            show(axes, images, columns=SIDE)
            axes.set_title(title, color=color, fontsize=10, fontweight="bold", pad=3)
            if j == 0:
                axes.set_ylabel(f"{rungs.title}\n({rungs.unit})", color=GREY, fontsize=10, rotation=0, ha="right", va="center", labelpad=8)
    note = "orange: at least one metric tells it from real images; grey: none does"
    figure.text(0.99, 0.02 / figure.get_figheight(), note, color=GREY, fontsize=9, ha="right", va="bottom")
    save(figure, path, bottom_inches=NOTE_INCHES)


def _shown(made: Altered | Picked) -> np.ndarray:
    """Nine of them: the first of those with changed pixels, else evenly from all."""
    count = SIDE * SIDE
    if isinstance(made, Altered):
        return made.gather(np.arange(min(count, len(made))))
    return made.gather(np.linspace(0, len(made) - 1, count).round().astype(np.int64))


@as_written()
def curves(path: Path, calibration: Calibration) -> None:
    """A plot a value: it in each strength of each fault, with the interval of real images against real images as a band."""
    values = needs.values()
    keys = list(calibration.metrics)
    applying = {name: rungs for name, rungs in calibration.faults.items() if rungs.applies}
    rows = -(-len(keys) // COLUMNS)
    figure = Figure(figsize=(3.9 * COLUMNS, 2.9 * rows + 0.6))
    for i, key in enumerate(keys):
        axes, null, verdict = figure.add_subplot(rows, COLUMNS, i + 1), calibration.null[key], calibration.metrics[key]
        axes.axhspan(null.low, null.high, color=REAL, alpha=0.25, linewidth=0)
        for number, (name, rungs) in enumerate(applying.items()):
            if key not in rungs.values:
                continue
            x = np.linspace(0, 1, len(rungs.strengths) + 1)  # strengths in order: their units differ
            color, dash = _color(number, len(applying)), "-" if verdict.sees[name] is not None else ":"
            axes.plot(x, [null.mean, *rungs.values[key]], marker="o", markersize=3, linewidth=1.4, color=color, linestyle=dash)
        declared = values.get(key.partition("@")[0])
        title = (declared.title if declared else key) + ("" if verdict.is_trusted else "  (not trusted)")
        axes.set_title(title, color=GREY if verdict.is_trusted else SEEN, fontsize=10, fontweight="bold", loc="left")
        _plain(axes)
    handles = [
        Line2D([], [], color=_color(number, len(applying)), marker="o", markersize=3, linewidth=1.4) for number in range(len(applying))
    ]
    figure.legend(
        handles,
        [rungs.title for rungs in applying.values()],
        loc="lower center",
        ncols=5,
        frameon=False,
        labelcolor=GREY,
        fontsize=9,
    )
    save(figure, path, bottom_inches=0.6)


def _color(number: int, count: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["turbo"](0.08 + 0.84 * number / max(1, count - 1))
    return red, green, blue, alpha


def _plain(axes: Axes) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
    axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=8)
    axes.set_xticks([0, 1], ["real", "strongest"])
