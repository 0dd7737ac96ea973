"""The verdict in words: five questions a person has, each answered from numbers with their intervals, or with what would have to be measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ganlib.metrics.calibration import Calibration
from ganlib.metrics.intervals import Z95
from pipeline.report import standing
from pipeline.report.numbers import Number, number, percent

Tone = Literal["good", "fair", "bad", "unknown"]

CLOSE, OFF = 3.0, 10.0  # a distance of so many times that of real images: the words for it, no statistics
TIMES: tuple[tuple[str, Tone], ...] = (("Close to real", "fair"), ("Visibly off", "fair"), ("Far from real", "bad"))
NEARLY, HALF = 0.8, 0.5  # the same for a share of what real images score
COPIES = 0.05  # near copies that chance makes 0.01 of: five times as many is not the tail any more

BLIND = "On these data the calibration trusts none of the numbers that would tell"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question and its answer.

    Attributes:
        word: the answer in a few words.
        phrase: the same as a part of a sentence about the generator.
        why: the numbers it stands on.
    """

    question: str
    word: str
    phrase: str
    tone: Tone
    why: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All answers, and one sentence of them."""

    answers: tuple[Answer, ...]

    @property
    def tone(self) -> Tone:
        """The worst of what is known."""
        tones = {answer.tone for answer in self.answers}
        order: tuple[Tone, ...] = ("bad", "fair", "good")
        return next((tone for tone in order if tone in tones), "unknown")

    @property
    def sentence(self) -> str:
        phrases = [answer.phrase for answer in self.answers]
        text = "; ".join(phrases)
        return f"{text[:1].upper()}{text[1:]}."


def judge(
    numbers: Sequence[Number],
    *,
    calibration: Calibration | None,
    alarms: Sequence[Mapping[str, Any]] | None,
    rollbacks: int,
    accuracy: float | None,
    majority_share: float | None,
    num_real: int,
) -> Verdict:
    """Answer the five questions.

    Args:
        alarms: of reports/training/alarms.json; None where the training was not watched.
        rollbacks: how often the training went back to an earlier checkpoint.
        accuracy, majority_share: of the extractor on held-out images, and of the largest class; None where there are no classes.
        num_real: held-out images, for the interval of the accuracy.
    """
    return Verdict(
        answers=(
            quality(numbers, calibration),
            variety(numbers, calibration),
            copies(numbers, calibration),
            health(alarms, rollbacks),
            ruler(main_distance(numbers, calibration), calibration, accuracy, majority_share, num_real),
        )
    )


def main_distance(numbers: Sequence[Number], calibration: Calibration | None) -> Number | None:
    """The first distance that the calibration trusts, else the first there is."""
    distances = [item for item in numbers if item.about.is_distance]
    trusted = [item for item in distances if standing.is_trusted(calibration, item.key)]
    return next(iter([*trusted, *distances]), None)


def telling(numbers: Sequence[Number], what: str, calibration: Calibration | None) -> list[Number]:
    """The numbers of the main extractor that say it of the generated images (`Value.tells`), without those that the calibration does not trust."""
    found = [item for item in numbers if item.about.tells == what and item.key == item.about.key]
    return [item for item in found if not standing.is_doubted(calibration, item.key)]


def is_beyond(item: Number, calibration: Calibration | None) -> bool:
    """Whether a distance is larger than real images' own: by its interval; or of as many images as the ladder is, by the ladder's null.

    Of more images than the null's, FID is lower, so that the first alone would pass what the second does not.
    """
    if item.real is not None and item.span.low > item.real.high:
        return True
    null = None if calibration is None else calibration.null.get(item.key)
    return null is not None and item.alike is not None and item.alike > null.high


def quality(numbers: Sequence[Number], calibration: Calibration | None) -> Answer:
    """How far the generated images are from real ones: the interval of the main distance against that of real images."""
    question = "Is it good?"
    main = main_distance(numbers, calibration)
    if main is None:
        return _unknown(question, "quality is not measured", "No distance was measured: add one to evaluate.metrics (fid, kid).")
    if standing.is_doubted(calibration, main.key):
        return _unknown(question, "quality cannot be told", f"{BLIND} how far from real they are.", word="Cannot be told")
    told = f"{main.title} {main.text}" + (f" (95 %: {main.interval})" if main.interval else "")
    if main.real is None:
        why = f"{told}. There is no calibration and no second held-out split, so nothing says what real images would score."
        return _unknown(question, f"{main.title} is {main.text}, with nothing to set it beside", why)
    against = f"{'real images against real ones' if main.is_null else 'other real images'} score {main.real_text}"
    farther, like, times = is_beyond(main, calibration), "", main.span.value / main.real.value if main.real.value > 0 else math.inf
    if calibration is not None and main.alike is not None and main.key in calibration.null:
        null = calibration.null[main.key]
        low, high = main.about.cut(null.low, null.high)
        against += f"; of {calibration.n:,} images a side, as the ladder is, it is {main.show(main.alike)}"
        against += f" where real ones score {main.show(low)} to {main.show(high)}"
        times = main.alike / null.mean if null.mean > 0 else math.inf
        equivalents = calibration.equivalent(main.key, main.alike)
        like = f" It is {' and '.join(equivalents[:2])}." if equivalents and main.alike > null.high else ""
    tells = next(
        (
            item
            for item in numbers
            if item.about.is_distance
            and item.real is not None
            and is_beyond(item, calibration)
            and (calibration is None or standing.is_trusted(calibration, item.key))
        ),
        None,
    )
    fidelity = next((item for item in telling(numbers, "fidelity", calibration) if item.real is not None), None)
    if fidelity is not None and fidelity.real is not None and fidelity.span.high < HALF * fidelity.real.value:
        few = f"only {fidelity.text} of the images look real to the extractor, of real ones {fidelity.show(fidelity.real.value)} do"
        return Answer(
            question=question, word="Far from real", phrase="far from real images", tone="bad", why=f"{told}; {against}; {few}.{like}"
        )
    if farther:
        ratio = f": {number(round(times, 1 if times < 10 else 0))} times as far" if times < 1e4 else ""
        word, tone = TIMES[0 if times <= CLOSE else 1 if times <= OFF else 2]
        phrase = f"{word[:1].lower()}{word[1:]} images" if word.endswith("real") else "visibly off from real images"
        return Answer(question=question, word=word, phrase=phrase, tone=tone, why=f"{told}; {against}{ratio}.{like}")
    if tells is not None:
        seen = f"{tells.title} tells them apart: {tells.text}, real images {tells.real_text}"
        return Answer(
            question=question,
            word="Close to real",
            phrase="close to real images",
            tone="fair",
            why=f"{told} lies where {against}, but {seen}.",
        )
    phrase = "as close to real images as other real images are"
    return Answer(question=question, word="Like real images", phrase=phrase, tone="good", why=f"{told} lies where {against}.")


def variety(numbers: Sequence[Number], calibration: Calibration | None) -> Answer:
    """Whether real images have generated ones around them: the worst of recall, coverage and classes covered, each beside real images' own."""
    question = "Is it diverse?"
    if not any(item.about.tells == "variety" for item in numbers):
        return _unknown(question, "variety is not measured", "Add prdc or class_coverage to evaluate.metrics.")
    found = telling(numbers, "variety", calibration)
    if not found:
        return _unknown(question, "variety cannot be told", f"{BLIND} how varied they are.", word="Cannot be told")
    told = ", ".join(
        f"{item.title.lower()} {item.text}" + (f" (real images: {item.real_text})" if item.real_text else "") for item in found
    )
    beside = [(item, item.real.value if item.real is not None else item.about.ideal or 1.0) for item in found]
    if all(item.real is None for item in found):
        told += "; no real images to set them beside, so 100 % stands in"
    shares = [(item.span.high / real if real > 0 else 1.0, item.span.value / real if real > 0 else 1.0, item) for item, real in beside]
    highest, share, worst = min(shares, key=lambda row: row[1])
    if highest >= 1.0 or share >= 0.97:
        return Answer(
            question=question, word="As varied as real", phrase="as varied as real images", tone="good", why=f"{_sentence(told)}."
        )
    words: tuple[tuple[float, str, str, Tone], ...] = (
        (NEARLY, "A little less varied", "a little less varied", "fair"),
        (HALF, "Less varied", "less varied than real images", "fair"),
        (0.0, "Much is missing", "with much of the variety missing", "bad"),
    )
    word, phrase, tone = next((word, phrase, tone) for least, word, phrase, tone in words if share >= least)
    lowest = f"{worst.title.lower()} reaches {percent(share)} of what real images score"
    return Answer(question=question, word=word, phrase=phrase, tone=tone, why=f"{_sentence(told)}: {lowest}.")


def copies(numbers: Sequence[Number], calibration: Calibration | None) -> Answer:
    """Whether more images than chance allows lie next to training images."""
    question = "Is it copied?"
    if not any(item.about.tells == "copies" for item in numbers):
        return _unknown(question, "copying is not measured", "Add memorization to evaluate.metrics.")
    share = next(iter(telling(numbers, "copies", calibration)), None)
    if share is None:
        return _unknown(question, "copying cannot be told", f"{BLIND} whether they are copies.", word="Cannot be told")
    chance = share.about.ideal or 0.01
    if share.real is not None:
        chance = max(chance, share.real.high)
    told = f"{share.text} of the images" + (f" (95 %: {share.interval})" if share.interval else "")
    told += f" lie closer to a training image than 99 % of unseen real images do; chance gives {percent(share.about.ideal or 0.01)}"
    if share.real is not None:
        told += f", other real images {share.real_text}"
    if share.span.low <= chance:
        return Answer(question=question, word="No sign of copying", phrase="with no sign of copying", tone="good", why=f"{told}.")
    look = "A generator of typical images is closer on average without copying: judge the pairs below by eye."
    if share.span.low <= COPIES:
        return Answer(
            question=question, word="Closer than chance", phrase="closer to training images than chance", tone="fair", why=f"{told}. {look}"
        )
    return Answer(
        question=question, word="Many near copies", phrase="with many near copies of training images", tone="bad", why=f"{told}. {look}"
    )


def health(alarms: Sequence[Mapping[str, Any]] | None, rollbacks: int) -> Answer:
    """What the alarms of the training say."""
    question = "Did it train well?"
    back = f" It went back to an earlier checkpoint {rollbacks} time{'s' if rollbacks > 1 else ''}." if rollbacks else ""
    if alarms is None:
        tone: Tone = "fair" if rollbacks else "unknown"
        return Answer(
            question=question,
            word=f"{rollbacks} rollbacks" if rollbacks else "Not watched",
            phrase="its training was not watched",
            tone=tone,
            why=f"Its health was not measured (train.health_interval_images).{back} The curves below are what there is.",
        )
    if not alarms:
        return Answer(
            question=question,
            word="Healthy" if not rollbacks else "No alarm now",
            phrase="trained without an alarm",
            tone="good" if not rollbacks else "fair",
            why=f"No alarm was raised.{back}",
        )
    names = list(dict.fromkeys(str(alarm["name"]).replace("_", " ") for alarm in alarms))
    is_bad = any(alarm.get("action") != "warn" for alarm in alarms)
    first = alarms[0]
    why = (
        f"First {str(first['name']).replace('_', ' ')} at {int(first['images_seen']):,} images: {number(float(first['value']))}, "
        f"threshold {number(float(first['threshold']))}. {first.get('meaning', '')}".strip()
    )
    count = f"{len(alarms)} alarm{'s' if len(alarms) > 1 else ''}"
    return Answer(
        question=question,
        word=count,
        phrase=f"trained with alarms ({', '.join(names)})",
        tone="bad" if is_bad else "fair",
        why=f"{why}{back}",
    )


def ruler(
    main: Number | None, calibration: Calibration | None, accuracy: float | None, majority_share: float | None, num_real: int
) -> Answer:
    """Whether the metric that decides tells real images from damaged ones, and the extractor its classes."""
    question = "Can the ruler see?"
    is_blind = False
    learnt = ""
    if accuracy is not None and majority_share is not None:
        error = Z95 * math.sqrt(max(accuracy * (1 - accuracy), 1e-9) / max(1, num_real))
        is_blind = accuracy - error <= majority_share
        learnt = f" The extractor is right on {percent(accuracy)} of held-out images; the largest class alone is {percent(majority_share)}."
    if is_blind:
        return Answer(
            question=question,
            word="It is blind",
            phrase="measured by a ruler that learnt nothing",
            tone="bad",
            why=f"{learnt.strip()} It has learnt nothing of these labels, so no number of its features means anything.",
        )
    if calibration is None:
        return _unknown(
            question,
            "the ruler is not calibrated",
            f"There is no data/calibration/calibration.json: which faults these numbers see is not known.{learnt}",
            word="Not calibrated",
        )
    if main is None:
        return _unknown(question, "nothing was measured that the calibration knows", f"No distance was measured.{learnt}")
    if not calibration.n:
        return _unknown(question, "the ruler could not be calibrated", f"{' '.join(calibration.warnings)}{learnt}", word="Not calibrated")
    why = _sentence(calibration.metrics[main.key].why) if main.key in calibration.metrics else "The calibration does not have it."
    seen, applies = standing.seen(calibration, main.key), standing.titles(calibration)
    told = f"{main.title} sees {len(seen)} of {len(applies)} known faults on real images ({', '.join(seen) or 'none'})."
    warnings = "".join(f" {_sentence(_end(line))}" for line in calibration.warnings)
    if not standing.is_trusted(calibration, main.key):
        return Answer(
            question=question,
            word="Not with this metric",
            phrase=f"measured by {main.title}, which the calibration does not trust",
            tone="bad",
            why=f"{told} {_end(why)}{learnt}{warnings}",
        )
    tone: Tone = "fair" if calibration.warnings else "good"
    missed = [title for title in applies if title not in seen]
    missing = f" It misses {', '.join(missed)}; other numbers may see them." if missed else ""
    return Answer(
        question=question, word="It sees", phrase="measured by a ruler that sees", tone=tone, why=f"{told}{missing}{learnt}{warnings}"
    )


def _unknown(question: str, phrase: str, why: str, *, word: str = "Not measured") -> Answer:
    return Answer(question=question, word=word, phrase=phrase, tone="unknown", why=why)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _end(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text}."
