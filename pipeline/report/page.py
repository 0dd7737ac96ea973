"""reports/report.html: one page a person reads to judge a generator. Self-contained: pictures inside, no script, nothing fetched.

Longer than other files because the page's style sheet lives here.
"""

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ganlib.metrics import needs

MAX_GRIDS = 8  # sample grids over time


CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1c2128;--soft:#5d6773;--line:#e2e6ea;--accent:#2f7fd1;--bar:#dfe5eb}
@media(prefers-color-scheme:dark){:root{--bg:#12161b;--card:#1b2128;--ink:#e4e8ec;--soft:#98a3af;--line:#2c343d;--accent:#62a8ee;--bar:#323b45}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 20px 60px}
h1{font-size:28px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:18px;margin:38px 0 4px}
p{margin:0 0 12px;max-width:78ch}
.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(228px,1fr));gap:14px;margin:22px 0 8px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.card h3{margin:0;font-size:13px;font-weight:600;color:var(--soft)}
.value{font-size:29px;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.interval{font-size:13px;color:var(--soft);font-variant-numeric:tabular-nums}
.range{position:relative;height:6px;border-radius:3px;background:var(--bar);margin:9px 0 8px}
.range i{position:absolute;top:0;bottom:0;border-radius:3px;background:var(--accent);opacity:.45;min-width:3px}
.range b{position:absolute;top:-3px;width:3px;height:12px;margin-left:-1.5px;border-radius:2px;background:var(--accent)}
.card p{margin:4px 0 0;font-size:13px;line-height:1.4}
figure{margin:14px 0 0;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px;text-align:center}
figure img{max-width:100%;height:auto;border-radius:4px}
figcaption{margin-top:8px;font-size:13px;color:var(--soft);text-align:left}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:14px;align-items:start}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px;margin-top:14px}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{padding:7px 16px;text-align:left;border-top:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
tr:first-child td,tr:first-child th{border-top:0}
th{font-weight:500;color:var(--soft);width:34%}
td{font-variant-numeric:tabular-nums}
.none{border:1px dashed var(--line);border-radius:12px;padding:12px 16px;margin-top:14px;color:var(--soft)}
details summary{cursor:pointer;color:var(--accent);margin-top:14px}
@media print{body{background:#fff}.card,figure,.scroll{break-inside:avoid}}
"""


def render(root: Path, evaluation: Mapping[str, Any]) -> str:
    """The page, from `evaluation` and whatever the project folder `root` holds; what is missing is named in its place."""
    generator = _read_json(root / "models" / "generator.json")
    data = _read_json(root / "reports" / "data.json")
    protocol, baseline = evaluation["protocol"], evaluation["baseline"]
    training, picture = root / "reports" / "training", root / "reports" / "plots"
    grids = sorted((training / "grids").glob("*.png"))
    curves = sorted(training.glob("*.png"))
    title = f"{generator.get('family', 'generator')} report"
    what = f"{protocol['n_fake']:,} generated images against {protocol['n_real']:,} held-out real ones ({protocol['split']} split)"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=soft>{what}, in the features of <b>{escape(protocol['extractor'])}</b>. These numbers compare only with numbers of the "
        "same protocol, listed below: not with published Inception scores.</p>",
        f"<div class=cards>{''.join(_card(value, evaluation, baseline) for value in _headlines(evaluation))}</div>",
        _baseline_note(baseline),
        _section("Generated images", "As sampled from the averaged (EMA) generator; seeds are in the Parquet file."),
        _figure(root / "samples" / "grid.png", f"Sample grid, not selected{_classes_told(root / 'samples' / 'grid.png')}."),
        _figure(root / "samples" / "interpolation.png", "Walks between latents: smooth change speaks against memorised images."),
        _section("Real and generated side by side", ""),
        _figure(picture / "real_vs_fake.png", "Held-out real images left, generated ones right; neither side is selected."),
        _section("Variety", "Where the generator puts its images, and which kinds it forgets."),
        _figure(
            picture / "features.png",
            "Both sets, in the two main directions of the real images. Blue without orange: a missing mode.",
        ),
        _figure(picture / "classes.png", "Classes as the extractor sees them, on both sides.", missing="the extractor knows no classes"),
        _section("Memorisation", _memorization_sentence(evaluation)),
        _figure(picture / "nearest_train.png", "The generated images closest to a training image, above that image; feature distance."),
        _section("Training", ""),
        "".join(_figure(path, path.stem.replace("_", " ").capitalize() + ".") for path in curves)
        or _none(training / "*.png", "training curves"),
        f"<div class=tiles>{''.join(_figure(path, path.stem) for path in _spread(grids, MAX_GRIDS))}</div>"
        if grids
        else _none(training / "grids" / "*.png", "sample grids over time"),
        _section("Every number", "95 % intervals where they were computed."),
        _numbers_table(evaluation, baseline),
        _section("Protocol", "A number means something only together with these."),
        _table(protocol),
        _section("Data", ""),
        _table(data) if data else _none(root / "reports" / "data.json", "data summary"),
        _section("Lineage", "What made this generator."),
        _table(_with_known_classes(generator)) if generator else _none(root / "models" / "generator.json", "description of the generator"),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def _headlines(evaluation: Mapping[str, Any]) -> list[needs.Value]:
    """What is shown on cards, in the order of the evaluation."""
    known = needs.values()
    return [known[key] for key in evaluation if key in known and known[key].is_headline]


def _card(headline: needs.Value, values: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    value, low, high = float(values[headline.key]), values.get(f"{headline.key}_low"), values.get(f"{headline.key}_high")
    show = _percent if headline.is_share else _number
    interval = ""
    if low is not None and high is not None:
        width = f"95 % interval {show(low)} to {show(high)}"
        top = 1.0 if headline.is_share else max(1e-12, high * 1.25, baseline.get(headline.key, 0.0) * 1.25)
        a, b, x = (100 * min(1.0, max(0.0, v / top)) for v in (low, high, value))
        bar = f"<div class=range><i style='left:{a:.1f}%;width:{b - a:.1f}%'></i><b style='left:{x:.1f}%'></b></div>"
        interval = f"{bar}<div class=interval>{width}</div>"
    null = values.get("null", {}).get(headline.key)
    if null is not None:
        interval += f"<div class=interval>real images against each other: {show(null['low'])} to {show(null['high'])}</div>"
    perfect = f"<div class=interval>real images score {show(baseline[headline.key])}</div>" if headline.key in baseline else ""
    return (
        f"<div class=card><h3>{escape(headline.title)}</h3><div class=value>{show(value)}</div>{interval}{perfect}"
        f"<p>{escape(headline.meaning)} <span class=soft>{escape(headline.hint)}.</span></p></div>"
    )


def _baseline_note(baseline: Mapping[str, Any]) -> str:
    if not baseline:
        return "<p class=soft>No second held-out split, so there is no score of real images to compare with.</p>"
    return (
        f"<p class=soft>“Real images score” puts the {baseline['n']:,} images of the {escape(baseline['split'])} split where the "
        "generated ones stand: as good as it gets. With fewer images FID comes out a little higher, so a very good "
        "generator can fall below it.</p>"
    )


def _memorization_sentence(values: Mapping[str, Any]) -> str:
    if "memorized_share" not in values:
        return "Not measured: add memorization to evaluate.metrics."
    share, probability = values["memorized_share"], values["copying_probability"]
    return (
        f"{_percent(share)} of the generated images lie closer to a training image than 99 % of unseen real images do; chance gives 1.0 %. "
        f"A generated image is farther from the training images than an unseen real one with probability {probability:.2f}; 0.5 is "
        "neutral. A generator of typical images is closer on average without copying, so judge the pairs by eye."
    )


def _numbers_table(values: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    rows = ["<tr><th>metric</th><td>generated</td><td>95 % interval</td><td>real images</td></tr>"]
    for key, value in values.items():
        if not isinstance(value, int | float) or key.endswith(("_low", "_high")):
            continue
        low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
        interval = "" if low is None or high is None else f"{_number(low)} to {_number(high)}"
        real = _number(baseline[key]) if key in baseline else ""
        rows.append(f"<tr><th>{escape(key)}</th><td>{_number(value)}</td><td>{interval}</td><td>{real}</td></tr>")
    return f"<div class=scroll><table>{''.join(rows)}</table></div>"


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in _flat(values, ""))
    return f"<div class=scroll><table>{rows}</table></div>"


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Nested mappings as dotted keys; numbers and short lists as text."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows.append((prefix + key, ", ".join(map(_text, value)) or "none"))
        else:
            rows.append((prefix + key, _text(value)))
    return rows


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return _number(value) if isinstance(value, float) else str(value)


def _section(title: str, text: str) -> str:
    return f"<h2>{escape(title)}</h2>" + (f"<p class=soft>{escape(text)}</p>" if text else "")


def _figure(path: Path, caption: str, *, missing: str = "") -> str:
    if not path.exists():
        return f"<div class=none>No picture: {escape(missing)}.</div>" if missing else _none(path, path.stem.replace("_", " "))
    image = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{image}"><figcaption>{escape(caption)}</figcaption></figure>'


def _classes_told(path: Path) -> str:
    """What a picture says of the classes it shows."""
    if not path.exists():
        return ""
    with Image.open(path) as picture:
        return f"; {picture.info['Classes']}" if "Classes" in picture.info else ""


def _with_known_classes(generator: Mapping[str, Any]) -> Mapping[str, Any]:
    """generator.json with the numbers of its classes beside their names, without those that had no training images."""
    counts, names = generator.get("image", {}).get("class_counts"), generator.get("class_names")
    if not counts or not names:
        return generator
    return {**generator, "class_names": [f"{i} {name}" for i, (name, count) in enumerate(zip(names, counts, strict=True)) if count]}


def _none(path: Path, what: str) -> str:
    place = "/".join(path.parts[-2:])
    return f"<div class=none>No {escape(what)}: {escape(place)} was not found.</div>"


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of them, evenly, first and last included."""
    if len(paths) <= count:
        return paths
    return [paths[round(i * (len(paths) - 1) / (count - 1))] for i in range(count)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float) -> str:
    """Four significant figures, never an exponent for everyday sizes."""
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
