"""A training on the console of the person who started it. A listener of `pipeline.tracking.follow`."""

from pathlib import Path
from typing import Any


class Console:
    """Progress a person can follow: one line each `interval_images`."""

    name = "the console"
    remedy = ""

    def __init__(self, total_images: int, interval_images: int) -> None:
        self.total_images = total_images
        self.interval_images = interval_images

    def begin(self) -> None:
        return

    def prepare(self) -> None:
        return

    def lines(self, lines: list[dict[str, Any]]) -> None:
        for line in lines[-3:]:  # a resume replays the history; the last few lines are enough
            done, speed = line["images_seen"], line["images_per_second"]
            left = max(0, self.total_images - done) / speed
            losses = "  ".join(
                f"{name.removeprefix('loss_')} {value:.3f}"
                for name, value in line["scalars"].items()
                if name.startswith(("loss_", "penalty_"))
            )
            print(
                f"{done:>11,} / {self.total_images:,} images  {100 * done / self.total_images:5.1f} %  {speed:8,.0f} images/s  "
                f"{losses}  {int(left) // 60}:{int(left) % 60:02d} left",
                flush=True,
            )

    def health(self, lines: list[dict[str, Any]]) -> None:
        return  # its alarms are events

    def grid(self, path: Path) -> None:
        return

    def event(self, text: str) -> None:
        print(text, flush=True)

    def beat(self) -> None:
        return

    def note_end(self, status: str) -> None:
        return

    def end(self, status: str) -> None:
        return
