"""reports/registration.html: who is champion and why, each number beside the champion's; for the person who reads reports/report.html."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganlib.metrics import needs
from pipeline.report import numbers, significance
from pipeline.report.numbers import Number
from pipeline.report.templates import environment

TITLES = {
    "ruler": "The ruler",
    "limit": "Hard limits",
    "alarm": "Alarms of the training",
    "protocol": "Measured alike",
    "superiority over samples": "Better than another draw of images may make it",
    "superiority over seeds": "Better than another seed may make it",
    "non-inferiority": "No worse elsewhere",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of this generator beside the champion's; and what the rule says of it, where it was asked."""

    ours: Number
    theirs: Number | None
    words: tuple[str, ...]
    passes: bool


def render(registration: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """The page.

    Args:
        registration: as reports/registration.json has it.
        evaluation: of this generator.
    """
    decision, champion = registration["decision"] or {}, registration["champion"]
    checks = decision.get("checks", ())
    ours = numbers.measured(evaluation, needs.values(), {})
    theirs = {} if champion is None else {item.key: item for item in numbers.measured(champion["numbers"], needs.values(), {})}
    of_key: dict[str, list[Mapping[str, Any]]] = {}
    for check in checks:
        of_key.setdefault(check["key"], []).append(check)
    rows = [
        Row(
            ours=item,
            theirs=theirs.get(item.key),
            words=tuple(check["words"] for check in of_key.get(item.key, ())) or tuple(filter(None, [_why_not(decision, item.key)])),
            passes=all(check["passes"] for check in of_key.get(item.key, ())),
        )
        for item in ours
        if item.key in of_key or item.key in theirs
    ]
    version = "a generator that is not registered" if registration["version"] is None else f"version {registration['version']}"
    return (
        environment()
        .get_template("registration.html")
        .render(
            title=f"{registration['model']}: {version}",
            registration=registration,
            champion=champion,
            groups=[
                (title, [check for check in checks if check["kind"] == kind])
                for kind, title in TITLES.items()
                if any(check["kind"] == kind for check in checks)
            ],
            rows=rows,
            disagreements=significance.told(
                significance.reversals({"this generator": ours, champion["name"]: list(theirs.values())}),
                str(evaluation.get("protocol", {}).get("extractor")),
            )
            if champion is not None and all(check["passes"] for check in checks if check["kind"] == "protocol")
            else [],
            rule=numbers.flat(decision.get("rule", {})),
            protocol=numbers.flat({key: value for key, value in evaluation.get("protocol", {}).items() if key != "read_from"}),
            tone="good" if "champion" in registration["aliases"] or decision.get("promotes") else "unknown",
        )
    )


def _why_not(decision: Mapping[str, Any], key: str) -> str:
    why = decision.get("not_judged", {}).get(key)
    return f"takes no part: {why}" if why else ""
