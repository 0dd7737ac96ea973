"""A page in headless Chromium: what goes wrong in it, at some widths, in light and in dark."""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Literal

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SCHEMES = {"dark": 0, "light": 1}  # Blink's numbers

# each width is a frame of its own: a window of a phone's width is more than Chromium opens
FRAMES = """<!doctype html><meta charset="utf-8"><body style="margin:0">%s<pre id="found"></pre><script>
addEventListener("load", () => { document.getElementById("found").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
  const inside = frame.contentDocument, page = inside.documentElement;
  return {width: page.clientWidth, overflow: page.scrollWidth - page.clientWidth, height: page.scrollHeight, images: inside.images.length,
    missing: [...inside.images].filter(image => !image.complete || !image.naturalWidth).length,
    is_dark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
    background: frame.contentWindow.getComputedStyle(inside.body).backgroundColor,
    outside: [...inside.querySelectorAll("body *")]
      .filter(part => !part.closest(".scroll") && part.getBoundingClientRect().right > page.clientWidth + 1)
      .slice(0, 3).map(part => part.outerHTML.slice(0, 100))};
}))})</script>"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a browser makes of a page at one width.

    Attributes:
        overflow: pixels by which it is wider than the window.
        outside: the first elements that reach beyond it.
        missing: images that did not load.
    """

    width: int
    overflow: int
    height: int
    images: int
    missing: int
    is_dark: bool
    background: str
    outside: list[str]


def look(page: Path, *, widths: tuple[int, ...], scheme: Literal["light", "dark"]) -> tuple[list[Seen], list[str]]:
    """What is seen at each of `widths`, and every line that the page writes to the console."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        frames = "".join(
            f'<iframe src="{page.resolve().as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>' for width in widths
        )
        wrapper = Path(folder) / "frames.html"
        wrapper.write_text(FRAMES % frames)
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder}/profile",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            "--enable-logging=stderr",
            "--dump-dom",
        ]
        done = subprocess.run([CHROMIUM, *options, wrapper.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    assert found[1], done.stderr[-2000:]
    return [Seen(**values) for values in json.loads(unescape(found[1]))], [line for line in done.stderr.splitlines() if "CONSOLE" in line]
