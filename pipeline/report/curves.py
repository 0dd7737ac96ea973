"""The training curves, and the health, as pictures; nothing in them depends on the clock."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.report.text import as_written

# panels of the health: title -> columns and how they are called
HEALTH = {
    "mean logit of": {"real_logits": "training images", "held_out_logits": "held-out images", "fake_logits": "generated images"},
    "discriminator accuracy (chance: 0.5)": {"discriminator_accuracy": ""},
    "diversity (real images: 1)": {"diversity": ""},
    "overfitting gap (standard deviations)": {"overfitting_gap": ""},
}
OF_NETWORKS = {"norm of the gradient": "gradient_norm_", "change of the weights in a step": "update_norm_"}  # a line a network
LOGARITHMIC = {"norm of the gradient", "change of the weights in a step"}


def draw(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Losses, penalties and logits over images seen."""
    groups = {"loss": ("loss_", "penalty_"), "mean logit": ("logit_",)}
    with _figure(path, rows=1, columns=2, size=(10, 3.4)) as panels:
        for axes, (title, prefixes) in zip(panels, groups.items(), strict=True):
            names = sorted({name for line in history for name in line["scalars"] if name.startswith(prefixes)})
            for name in names:
                points = [(line["images_seen"], line["scalars"][name]) for line in history if name in line["scalars"]]
                axes.plot(
                    *zip(*points, strict=True), label=name.removeprefix("loss_").removeprefix("logit_").replace("_", " "), linewidth=1.4
                )
            _label(axes, title, has_legend=bool(names))


def draw_health(lines: Sequence[Mapping[str, Any]], alarms: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Measurements over images seen, a panel a question; a dashed line where an alarm was raised, named above the first panel that has it."""
    from matplotlib.ticker import NullFormatter

    measured = list(dict.fromkeys(name for line in lines for name in line["values"]))
    of_networks = {
        title: {name: name.removeprefix(prefix) for name in measured if name.startswith(prefix)} for title, prefix in OF_NETWORKS.items()
    }
    with _figure(path, rows=2, columns=3, size=(13, 6.4)) as panels:
        for axes, (title, names) in zip(panels, (HEALTH | of_networks).items(), strict=True):
            present = [name for name in names if any(name in line["values"] for line in lines)]
            for name in present:
                points = [(line["images_seen"], line["values"][name]) for line in lines if name in line["values"]]
                axes.plot(*zip(*points, strict=True), label=names[name], linewidth=1.4, marker="o", markersize=2.5)
            if title in LOGARITHMIC and any(line["values"].get(name, 0) > 0 for line in lines for name in present):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            for alarm in alarms:
                axes.axvline(alarm["images_seen"], color="tab:red", linestyle="--", linewidth=1)
            _label(axes, title if present or not lines else f"{title}: none", has_legend=len(present) > 1)
        named = "; ".join(f"{alarm['name'].replace('_', ' ')} after {alarm['images_seen']:,} images" for alarm in alarms[:4])
        more = f", and {len(alarms) - 4} more" if len(alarms) > 4 else ""
        text = f"alarms: {named}{more}" if alarms else "no alarm" if lines else "not measured (train.health_interval_images)"
        panels[0].figure.suptitle(text, x=0.01, ha="left", fontsize=10, color="tab:red" if alarms else "black")


@contextmanager
def _figure(path: Path, *, rows: int, columns: int, size: tuple[float, float]) -> Iterator[list[Any]]:
    """The panels of a figure, which is written to `path` at the end."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}), as_written():
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield list(figure.subplots(rows, columns).flat)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _label(axes: Any, title: str, *, has_legend: bool) -> None:
    axes.set_xlabel("real images seen")
    axes.set_title(title, loc="left")
    axes.xaxis.set_major_formatter(lambda value, _: "0" if value == 0 else f"{value / 1000:g}k" if value < 1e6 else f"{value / 1e6:g}M")
    axes.grid(alpha=0.25)
    if has_legend:
        axes.legend(frameon=False)
