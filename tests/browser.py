"""A page in headless Chromium: what goes wrong in it, at some widths, in light and in dark; what a script in it gives."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any, Literal

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


def evaluated(page: Path, script: str) -> tuple[Any, list[str]]:
    """What `script`, the body of an asynchronous function, returns in a page without any network, in real time; and errors of the page.

    It speaks Chrome's DevTools protocol over a pipe: virtual time, as in `--virtual-time-budget`, measures nothing.
    """
    assert CHROMIUM is not None
    (read_end, to_browser), (from_browser, write_end) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        options = "--headless=new --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe --host-resolver-rules='MAP * ~NOTFOUND'"
        command = f'exec "{CHROMIUM}" {options} --user-data-dir="{folder}/profile" about:blank 3<&{read_end} 4>&{write_end}'
        browser = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(read_end, write_end), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_end)
        os.close(write_end)
        with os.fdopen(to_browser, "wb") as ask, os.fdopen(from_browser, "rb") as answers:
            waiting, errors, number = b"", [], 0

            def call(method: str, **parameters: Any) -> Any:
                nonlocal waiting, number
                number += 1
                session = {} if session_id is None else {"sessionId": session_id}
                ask.write(json.dumps({"id": number, "method": method, "params": parameters, **session}).encode() + b"\0")
                ask.flush()
                while True:
                    while b"\0" not in waiting:
                        part = os.read(answers.fileno(), 1 << 20)
                        assert part, "the browser has gone"
                        waiting += part
                    message, _, waiting = waiting.partition(b"\0")
                    told = json.loads(message)
                    if told.get("method") == "Runtime.exceptionThrown":
                        details = told["params"]["exceptionDetails"]
                        errors.append(details.get("exception", {}).get("description", details["text"]))
                    if told.get("id") == number:
                        assert "error" not in told, told["error"]
                        return told["result"]

            session_id = None
            target = call("Target.createTarget", url="about:blank")["targetId"]
            session_id = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            call("Runtime.enable")
            call("Page.enable")
            call("Page.navigate", url=page.resolve().as_uri())
            found = call("Runtime.evaluate", expression=f"(async () => {{ {script} }})()", awaitPromise=True, returnByValue=True)
            call("Browser.close")
        browser.wait(timeout=30)
    assert "exceptionDetails" not in found, found["exceptionDetails"]
    return found["result"].get("value"), errors
