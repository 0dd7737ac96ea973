"""The model card of a generator (arXiv:1810.03993): what it is for, of which data, how it was trained, how good it is, and what is not known."""

from collections.abc import Mapping, Sequence
from typing import Any

from ganlib.metrics import needs
from pipeline.report import numbers

LICENCES = {  # of the named sources
    "fashion-mnist": "MIT (Zalando Research, https://github.com/zalandoresearch/fashion-mnist)",
    "ring": "none: numbers that this project draws",
    "grid": "none: numbers that this project draws",
    "digits": "CC BY 4.0 (UCI Optical Recognition of Handwritten Digits, doi:10.24432/C50P49; as scikit-learn has it)",
}
UNKNOWN = (
    "not known to this project (params.yaml: register.data_licence): whoever gave the images knows it, and what it allows decides what these "
    "weights may be used for"
)
MARKS = [
    "Every PNG says in its metadata that it is synthetic. `ganpipe generate`, `ganpipe serve` and `ganpipe mark` also put a mark into the "
    "pixels, which `ganpipe detect` finds. A registered version that MLflow loads or serves marks uint8, bytes and PNG where the environment "
    "has GANPIPE_MARK_KEY then; without a key nothing is in their pixels.",
    "The weights and images of float32 carry no mark. In one small image it is seldom found, and whoever wants it gone can take it out.",
]
OF_A_SEED = """With numpy and onnxruntime alone, image i being that of (seed, i) in every form:

```python
import onnxruntime, seeded  # the file beside this one

images = seeded.images(onnxruntime.InferenceSession("model.onnx"), seed=3, numbers=range(16))
```"""
NOT_SEEN = (
    "Distances are between distributions of features: an image that is wrong where the extractor does not look, or a rare one that is "
    "missing, may not show in them.",
    "Memorisation is looked for among the training images that were compared, in those features; a copy of a detail of an image is not found.",
    "An interval is over the draw of images from this one training, not over another seed of it.",
)


def render(
    facts: Mapping[str, Any],
    interface: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    *,
    alarms: Sequence[str] | None = None,
    licence: str | None = None,
    onnx: bool = False,
) -> str:
    """Markdown with the YAML header of Hugging Face.

    Args:
        facts: models/generator.json.
        interface: `pipeline.forms.interface`.
        evaluation: reports/evaluation.json of these very weights; None where they were not measured.
        alarms: of its training; None where they are not known.
        licence: of the data, where the project says it (`register.data_licence`).
        onnx: model.onnx and seeded.py lie beside the card.
    """
    data, source = facts["data"], str(facts["data"].get("source", "unknown"))
    header = [
        "---",
        "library_name: pytorch",
        "pipeline_tag: unconditional-image-generation",
        f"tags: [gan, {facts['family']}, synthetic]",
        "---",
    ]
    if interface["fed"] is not None:
        header[2] = "pipeline_tag: image-to-image"
    channels, height, width = interface["images"]
    of_classes = f", of the classes {', '.join(interface['class_names'])}" if interface["class_names"] else ""
    made = f"{width}x{height} images of {channels} channel{'s' if channels > 1 else ''}"
    parts = [
        ("", [f"# {facts['family']} trained on {source}", f"Makes {made}{of_classes}. Every one is synthetic."]),
        (
            "Intended use",
            [
                f"Synthetic images that look like those of {source}: for study, tests and augmentation where their figures below are good enough.",
                "Not for deceiving people, nor for what needs true images: no image shows anything that was there.",
            ],
        ),
        (
            "Data",
            [
                f"{data.get('training_images', 'unknown'):,} images of {source}, {data.get('image_size')} pixels; "
                f"digest {str(facts.get('data_digest', ''))[:16]}.",
                f"Licence of the data: {licence or LICENCES.get(source, UNKNOWN)}.",
                "What the images show, who is in them and whether they agreed is not looked at by this project.",
            ],
        ),
        (
            "Training",
            [
                f"{facts['images_seen']:,} real images seen; task {facts.get('task', {}).get('name', 'adversarial')}; weights: {facts['weights']}.",
                *_parameters(facts),
                *([] if alarms is None else [f"Alarms of the training: {', '.join(alarms) or 'none'}."]),
                f"Run key {facts['run_key']}, commit {facts['git_commit']}{_changed(facts)}, settings {facts.get('params_digest', '')[:16]}.",
                f"sha256 of the weights: {facts['sha256']}.",
                *([f"It took over from the training {facts['parent']['run_key']}."] if "parent" in facts else []),
            ],
        ),
        ("Use", [interface["input"], *([OF_A_SEED] if onnx and interface["latents"] is not None else [])]),
        ("Figures", _figures(evaluation)),
        ("What the figures cannot see", [*_unseen(evaluation), *NOT_SEEN]),
        (
            "Limits",
            [
                "It repeats what its data have, their gaps and their prejudices too, and can repeat single training images.",
                *(
                    [f"Truncation {interface['truncation']:g} is built in: fewer kinds of images than the data have."]
                    if _is_cut(interface)
                    else []
                ),
            ],
        ),
        ("Marks", MARKS),
    ]
    text = "\n\n".join("\n\n".join(([f"## {title}"] if title else []) + lines) for title, lines in parts)
    return "\n".join(header) + f"\n{text}\n"


def _parameters(facts: Mapping[str, Any]) -> list[str]:
    counted = facts.get("parameters", {})
    return [f"Parameters: {', '.join(f'{name} {number:,}' for name, number in counted.items())}."] if counted else []


def _changed(facts: Mapping[str, Any]) -> str:
    return f" (with changes in {', '.join(facts['git_changed'])})" if "git_changed" in facts else ""


def _is_cut(interface: Mapping[str, Any]) -> bool:
    return interface["truncation"] not in (None, 1.0)


def _figures(evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["Not measured."]
    protocol, untrusted = evaluation["protocol"], evaluation.get("ruler", {}).get("untrusted", {})
    rows = [
        f"| {item.title} (`{item.key}`){' *' if item.key in untrusted else ''} | {item.text} | {item.interval or '-'} | {item.real_text or '-'} |"
        for item in numbers.measured(evaluation, needs.values(), {})
    ]
    said = f"{protocol.get('n_fake', '?')} images against {protocol.get('n_real', '?')} of the {protocol['split']} split"
    return [
        f"{said}, read from {protocol.get('extractor', 'features')}; they compare only with figures of the same protocol.",
        "\n".join(["| number | value | 95 % interval | real images |", "| --- | --- | --- | --- |", *rows]),
        *(["\\* not to be trusted on these data: see below."] if untrusted else []),
    ]


def _unseen(evaluation: Mapping[str, Any] | None) -> Sequence[str]:
    ruler = {} if evaluation is None else evaluation.get("ruler", {})
    return [
        *(f"`{key}`: {why}." for key, why in ruler.get("untrusted", {}).items()),
        *(f"{warning}." for warning in ruler.get("warnings", ())),
    ]
