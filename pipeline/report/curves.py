"""The training curves as a picture."""

from pathlib import Path
from typing import Any

from pipeline.report.text import as_written


def draw(history: list[dict[str, Any]], path: Path) -> None:
    """Losses, penalties and logits over images seen; nothing that depends on the clock."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = {"loss": ("loss_", "penalty_"), "mean logit": ("logit_",)}
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}), as_written():
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, prefixes) in zip(figure.subplots(1, 2), groups.items(), strict=True):
            names = sorted({name for line in history for name in line["scalars"] if name.startswith(prefixes)})
            for name in names:
                points = [(line["images_seen"], line["scalars"][name]) for line in history if name in line["scalars"]]
                axes.plot(
                    *zip(*points, strict=True), label=name.removeprefix("loss_").removeprefix("logit_").replace("_", " "), linewidth=1.4
                )
            axes.set_xlabel("real images seen")
            axes.set_title(title, loc="left")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value < 1e6 else f"{value / 1e6:g}M")
            axes.grid(alpha=0.25)
            if names:
                axes.legend(frameon=False)
        figure.savefig(path, dpi=110, metadata={"Software": None})
