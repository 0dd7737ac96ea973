"""What a person reads from the page: bars that lie where their numbers are, a verdict that follows from them, a page that fits any window.

Long, because one made-up evaluation serves the numbers, the verdict, the ladder and the browser alike.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image

from ganlib.metrics import needs
from ganlib.metrics.calibration import Calibration, Null, Rungs
from ganlib.metrics.calibration import Verdict as Trust
from ganlib.metrics.interface import ArrayImages, Comparison
from ganlib.rng import keyed_rng
from pipeline.report import charts, numbers, seen, standing, verdict
from pipeline.report import page as report
from pipeline.report.templates import environment
from tests import browser

PROTOCOL: dict[str, Any] = {"n_fake": 80, "n_real": 60, "split": "test", "extractor": "classifier"}
FID = {"fid": 5.0, "fid_low": 2.0, "fid_high": 8.0}


def bars(root: Path, values: dict[str, Any], baseline: dict[str, Any] | None = None) -> list[tuple[float, ...]]:
    """(left end, width, mark) in per cent of each bar on the page, in its order."""
    page = report.render(root, {**values, "baseline": baseline or {}, "protocol": PROTOCOL})
    found = re.findall(r'<i style="left:(.*?)%;width:(.*?)%"></i><b style="left:(.*?)%"></b></div>', page)
    return [tuple(map(float, bar)) for bar in found]


def test_a_bar_spans_its_interval_and_its_mark_is_the_value(tmp_path: Path) -> None:
    """A share is drawn on 0 to 100 %, another number on 0 to 1.25 times the larger of its upper end and the real images' score.

    Kills the mutants that swap two of (low, high, value).
    """
    precision = {"precision": 0.6, "precision_low": 0.25, "precision_high": 0.75}
    assert bars(tmp_path, FID | precision) == [(20.0, 60.0, 50.0), (25.0, 50.0, 60.0)]
    assert bars(tmp_path, FID, {"fid": 16.0, "n": 30, "split": "val"}) == [(10.0, 30.0, 25.0)]


def test_a_bar_stays_on_the_page(tmp_path: Path) -> None:
    ((left, width, mark),) = bars(tmp_path, {"precision": 1.0, "precision_low": -0.1, "precision_high": 1.2})
    assert (left, width, mark) == (0.0, 100.0, 100.0)


def test_no_interval_no_bar(tmp_path: Path) -> None:
    assert bars(tmp_path, {"fid": 5.0, "kid": 0.1}) == []
    page = report.render(tmp_path, {**FID, "baseline": {}, "protocol": PROTOCOL})
    assert "95 % interval 2 to 8" in page


# ---- the numbers ----


def measured(values: dict[str, Any]) -> list[numbers.Number]:
    return numbers.measured(values, needs.values(), {})


def test_real_images_own_draws_go_before_the_other_splits_single_score() -> None:
    """Kills the mutant that shows the baseline beside a number that has a null, and one that reads the interval of another extractor."""
    values = {**FID, "fid@rotation": 7.0, "fid@rotation_low": 6.0, "fid@rotation_high": 8.0, "recall": 0.5}
    values |= {"null": {"fid": {"mean": 0.5, "low": -1.0, "high": 2.0}}, "baseline": {"fid": 3.0, "recall": 0.9}}
    main, second, recall = measured(values)
    assert (main.is_null, main.real) == (True, numbers.Span(value=0.5, low=0.0, high=2.0))  # FID is never below 0
    assert (second.title, second.span) == ("FID (rotation)", numbers.Span(value=7.0, low=6.0, high=8.0))
    assert second.real is None
    assert (recall.is_null, recall.real_text, recall.interval) == (False, "90.0\u00a0%", "")
    null = {"recall": Null(mean=0.9, low=0.8, high=1.2, draws=3)}
    (found,) = numbers.measured({"recall": 0.5}, needs.values(), null)
    assert found.real == numbers.Span(value=0.9, low=0.8, high=1.0)  # a share


def test_a_table_names_what_lies_inside() -> None:
    nested = {"a": {"b": 1.5, "c": []}, "extractors": [{"name": "x", "depths": ["middle", "last"]}, {"name": "y"}], "on": True}
    assert numbers.flat(nested) == [
        ("a.b", "1.5"),
        ("a.c", "none"),
        ("extractors.1.name", "x"),
        ("extractors.1.depths", "middle, last"),
        ("extractors.2.name", "y"),
        ("on", "yes"),
    ]


# ---- the verdict ----


def answers(values: dict[str, Any], **told: Any) -> dict[str, verdict.Answer]:
    known = {"calibration": None, "alarms": None, "rollbacks": 0, "accuracy": None, "majority_share": None, "num_real": 1000} | told
    return {answer.question: answer for answer in verdict.judge(measured(values), **known).answers}


def near(value: float, half: float, key: str = "fid") -> dict[str, float]:
    return {key: value, f"{key}_low": value - half, f"{key}_high": value + half}


NULL = {"null": {"fid": {"mean": 1.0, "low": 0.5, "high": 1.5}, "kid": {"mean": 0.0, "low": -0.1, "high": 0.1}}}


@pytest.mark.parametrize(
    ("values", "word", "tone"),
    [
        (near(1.6, 0.2), "Like real images", "good"),  # its interval reaches the null's
        (near(2.0, 0.2), "Close to real", "fair"),
        (near(6.0, 0.2), "Visibly off", "fair"),
        (near(20.0, 0.2), "Far from real", "bad"),
        (near(1.2, 0.2) | near(0.4, 0.1, "kid"), "Close to real", "fair"),  # another distance tells them apart
        (near(1.2, 0.2) | near(0.1, 0.1, "kid"), "Like real images", "good"),
        (
            near(1.2, 0.2) | near(0.3, 0.05, "precision") | {"baseline": {"precision": 0.9}},
            "Far from real",
            "bad",
        ),  # blobs of the right moments
    ],
)
def test_quality_is_told_from_the_interval_and_not_from_the_number(values: dict[str, Any], word: str, tone: str) -> None:
    """Kills: the value in place of its lower end, the null's mean in place of its upper end, one distance that is believed against another."""
    found = answers(values | NULL)["Is it good?"]
    assert (found.word, found.tone) == (word, tone)


def test_what_was_not_measured_is_said_and_never_guessed() -> None:
    found = answers({})
    assert {answer.tone for answer in found.values()} == {"unknown"}
    assert "evaluate.metrics" in found["Is it copied?"].why
    assert "train.health_interval_images" in found["Did it train well?"].why
    lonely = answers(near(3.0, 0.1))["Is it good?"]
    assert (lonely.word, lonely.tone) == ("Not measured", "unknown")
    assert "nothing says what real images would score" in lonely.why


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"recall": 0.88, "coverage": 0.9}, "As varied as real"),
        ({"recall": 0.75, "coverage": 0.9}, "A little less varied"),
        ({"recall": 0.5, "coverage": 0.9}, "Less varied"),
        ({"recall": 0.9, "coverage": 0.3}, "Much is missing"),
        (near(0.8, 0.15, "recall") | {"coverage": 0.9}, "As varied as real"),  # its interval holds what real images score
        ({"recall": 0.9, "coverage": 0.9, "class_coverage": 0.4}, "Much is missing"),
    ],
)
def test_variety_is_the_worst_of_what_was_measured(values: dict[str, Any], word: str) -> None:
    """Kills the mean or the best in place of the worst, and 1 in place of what real images score."""
    assert answers(values | {"baseline": {"recall": 0.9, "coverage": 0.9, "class_coverage": 1.0}})["Is it diverse?"].word == word


@pytest.mark.parametrize(
    ("low", "value", "word"), [(0.005, 0.02, "No sign of copying"), (0.02, 0.04, "Closer than chance"), (0.3, 0.4, "Many near copies")]
)
def test_copying_is_told_from_the_lower_end(low: float, value: float, word: str) -> None:
    values = {"memorized_share": value, "memorized_share_low": low, "memorized_share_high": 0.5}
    assert answers(values)["Is it copied?"].word == word


def test_alarms_and_rollbacks_make_the_word() -> None:
    alarm = {"name": "mode_collapse", "images_seen": 4000, "value": 0.01, "threshold": 0.1, "action": "warn", "meaning": "All look alike."}
    assert answers({}, alarms=[])["Did it train well?"].word == "Healthy"
    assert answers({}, alarms=[], rollbacks=1)["Did it train well?"].tone == "fair"
    found = answers({}, alarms=[alarm])["Did it train well?"]
    assert (found.word, found.tone) == ("1 alarm", "fair")
    assert "First mode collapse at 4,000 images: 0.01, threshold 0.1. All look alike." in found.why
    assert answers({}, alarms=[alarm, alarm | {"action": "stop"}])["Did it train well?"].tone == "bad"


def calibrated(*, is_trusted: bool = True) -> Calibration:
    trust = Trust(
        sees={"blur": 1.0, "noise": None},
        rises={"blur": True, "noise": False},
        is_trusted=is_trusted,
        why="sees blur",
        better="lower",
        ideal=0.0,
    )
    return Calibration(
        data_digest="d",
        extractor_sha256="e",
        split="val",
        n=100,
        null={"fid": Null(mean=1.0, low=0.5, high=1.5, draws=5)},
        faults={
            "blur": Rungs(title="blur", unit="pixels", applies=True, why_not=None, strengths=[1.0, 2.0], values={"fid": [4.0, 40.0]}),
            "noise": Rungs(title="noise", unit="share", applies=True, why_not=None, strengths=[0.1], values={"fid": [1.1]}),
            "dropped_class": Rungs(
                title="classes dropped", unit="classes", applies=False, why_not="no classes", strengths=[1.0], values={}
            ),
        },
        metrics={"fid": trust},
        extractor_accuracy=0.9,
        majority_share=0.1,
        warnings=[],
    )


def test_the_ruler_is_blind_where_its_accuracy_is_that_of_chance() -> None:
    """Labels that mean nothing: within its own error of the largest class. Kills a comparison without the error, and one that is not made."""
    blind = answers(FID, accuracy=0.12, majority_share=0.10, num_real=500)["Can the ruler see?"]
    assert (blind.word, blind.tone) == ("It is blind", "bad")
    assert answers(FID, accuracy=0.12, majority_share=0.10, num_real=50_000)["Can the ruler see?"].word == "Not calibrated"


def test_the_ruler_sees_what_the_calibration_says() -> None:
    found = answers(FID, calibration=calibrated())["Can the ruler see?"]
    assert (found.word, found.tone) == ("It sees", "good")
    assert "FID sees 1 of 2 known faults on real images (blur). It misses noise" in found.why
    doubted = answers(FID, calibration=calibrated(is_trusted=False))["Can the ruler see?"]
    assert (doubted.word, doubted.tone) == ("Not with this metric", "bad")


def test_of_more_images_than_the_ladders_it_is_placed_by_as_many() -> None:
    """FID falls with the number of images: of 10,000 it lies where real images do against each other, of the ladder's 100 it is a blur of 1.5 pixels.
    Kills the value of all images on the ladder, and a verdict that passes what the ladder does not."""
    values = near(1.0, 0.1) | NULL | {"ruler": {"alike": {"fid": 22.0}}}
    found = answers(values, calibration=calibrated())["Is it good?"]
    assert (found.word, found.tone) == ("Far from real", "bad")
    assert "of 100 images a side, as the ladder is, it is 22 where real ones score 0.5 to 1.5: 22 times as far" in found.why
    assert "It is as far from real as a blur of 1.5 pixels." in found.why
    fine = answers(values | {"ruler": {"alike": {"fid": 1.2}}}, calibration=calibrated())["Is it good?"]
    assert (fine.word, fine.tone) == ("Like real images", "good")
    assert "blur" not in fine.why


def test_the_tag_on_the_ladder_has_the_number_that_stands_there(tmp_path: Path) -> None:
    page = report.render(tmp_path, project(tmp_path) | {"ruler": {"alike": {"fid": 22.0}}})
    assert ">generated 22</span>" in page
    assert "Each is of 100 images a side" in page


def test_nothing_is_praised_by_a_number_that_is_not_trusted() -> None:
    """Kills "like real images" and "as varied as real" by a ruler that cannot see. What the calibration did not look at still tells."""
    blind = calibrated(is_trusted=False)
    blind.metrics.update(dict.fromkeys(("precision", "recall", "coverage", "memorized_share"), blind.metrics["fid"]))
    values = near(1.2, 0.2) | NULL | {"recall": 0.9, "coverage": 0.9, "memorized_share": 0.01, "baseline": {"recall": 0.9, "coverage": 0.9}}
    told = answers(values, calibration=blind)
    for question in ("Is it good?", "Is it diverse?", "Is it copied?"):
        assert (told[question].word, told[question].tone) == ("Cannot be told", "unknown"), question
    beside = answers(values | {"class_coverage": 0.4}, calibration=blind)["Is it diverse?"]
    assert (beside.word, "recall" in beside.why) == ("Much is missing", False)
    bland = near(1.2, 0.2) | NULL | near(0.1, 0.05, "precision") | {"baseline": {"precision": 0.9}}
    seeing = calibrated()
    seeing.metrics["precision"] = blind.metrics["precision"]
    assert answers(bland, calibration=seeing)["Is it good?"].word == "Like real images"


def test_the_verdict_is_as_bad_as_its_worst_answer() -> None:
    told = {"alarms": [], "rollbacks": 0, "accuracy": None, "majority_share": None, "num_real": 10, "calibration": None}
    whole = verdict.judge(measured(near(20.0, 0.2) | NULL | {"recall": 0.9}), **told)
    assert whole.tone == "bad"
    assert whole.sentence.startswith("Far from real images; ")
    assert verdict.judge([], **(told | {"alarms": None})).tone == "unknown"


def test_a_rung_lies_where_its_value_is() -> None:
    """On a logarithmic axis, ends inside; what does not apply is left out; strengths that lie on each other are written once."""
    found = standing.scale(calibrated(), "fid", 4.0)
    assert found is not None
    assert [rung.title for rung in found.rungs] == ["noise", "blur"]  # by their strongest
    noise, blur = found.rungs
    assert next(place for _, _, place, _ in blur.points) == found.here
    assert found.null[0] <= noise.points[0][2] < found.null[1] < found.here < blur.points[1][2] < 100
    decade = blur.points[1][2] - blur.points[0][2]  # 4 to 40
    assert blur.points[1][2] - found.null[1] == pytest.approx(decade * np.log10(40 / 1.5), rel=1e-3)
    assert (noise.seen, blur.seen) == ((), (1.0, 2.0))
    assert standing.scale(calibrated(), "kid", 1.0) is None


def test_the_table_says_from_where_a_fault_is_seen_whether_it_rises_and_why_a_number_is_not_trusted(tmp_path: Path) -> None:
    """Kills a table without `rises`, raw keys for titles, and reasons that only a mouse finds: paper and phones have none."""
    found = calibrated(is_trusted=False)
    found.metrics["fid"].sees["noise"] = 0.1
    (row,) = standing.sights(found, {"fid": "FID"}, numbers.number)
    assert row == standing.Sight(title="FID", cells=("from 1", "from 0.1, not rising", "does not apply"), doubt="sees blur")
    assert standing.sights(calibrated(), {}, numbers.number)[0] == standing.Sight(
        title="fid", cells=("from 1", "no", "does not apply"), doubt=""
    )
    values = project(tmp_path)
    found.write(tmp_path / "data" / "calibration")
    Image.new("RGB", (90, 40)).save(tmp_path / "data" / "calibration" / "ladder.png")
    page = report.render(tmp_path, values)
    assert "<td>from 0.1, not rising</td>" in page
    assert "classes dropped does not apply: no classes." in page
    assert "<b>FID</b> decides nothing on these data: it sees blur." in page
    assert "What the faults look like" in page


def test_a_jpeg_is_worse_where_its_quality_falls() -> None:
    """Kills strengths that are compared as numbers: 60 would be seen, and 30 and 3, which are farther from real, would not."""
    found = calibrated()
    jpeg = Rungs(title="JPEG", unit="quality", applies=True, why_not=None, strengths=[90.0, 60.0, 3.0], values={"fid": [1.2, 2.0, 9.0]})
    found.faults["jpeg"], found.metrics["fid"].sees["jpeg"] = jpeg, 60.0
    shown = standing.scale(found, "fid", 4.0)
    assert shown is not None
    assert {rung.title: rung.seen for rung in shown.rungs}["JPEG"] == (60.0, 3.0)


# ---- the curves ----


def test_ticks_are_round_and_reach_over_the_ends() -> None:
    assert charts.ticks(0.0, 64_000.0, 4) == [0, 20_000, 40_000, 60_000, 80_000]
    assert charts.ticks(-0.21, 0.31, 4) == pytest.approx([-0.4, -0.2, 0.0, 0.2, 0.4])


def test_a_curve_goes_through_its_points_and_an_alarm_stands_where_it_rang(tmp_path: Path) -> None:
    """Kills swapped axes, a y axis that points down, and cells that are read where there are none."""
    path = tmp_path / "history.csv"
    path.write_text("step,images_seen,loss_generator,loss_discriminator\n1,50,0,1\n2,100,2,\n3,200,4,1\n")
    columns = charts.table(path)
    assert columns["loss_discriminator"] == [(50.0, 1.0), (200.0, 1.0)]
    (chart,) = charts.charts(columns, [{"name": "mode_collapse", "images_seen": 100, "action": "stop"}])
    by_name = {line.name: line for line in chart.lines}
    points = [tuple(map(float, point.split())) for point in by_name["generator"].path[1:].split("L")]
    across, down = zip(*points, strict=True)
    assert across[1] == pytest.approx(chart.marks[0].x, abs=0.1)
    assert across[2] == charts.WIDTH - charts.RIGHT
    assert down == (charts.HEIGHT - charts.BOTTOM, pytest.approx((charts.HEIGHT - charts.BOTTOM + charts.TOP) / 2), charts.TOP)
    assert chart.marks[0].is_loud


def test_one_huge_point_leaves_the_others_readable() -> None:
    """A first loss of 1e6 is cut at the edge. Kills an axis from smallest to largest."""
    points = [(float(i), 1e6 if i == 0 else 1.0 + i % 3) for i in range(200)]
    (chart,) = charts.charts({"loss_generator": points})
    assert chart.y_ticks[-1][1] in ("12", "15", "20")


def test_norms_over_many_powers_of_ten_are_on_a_logarithmic_axis() -> None:
    """1, 10^7 and 10^14: the middle one in the middle. Kills a linear axis, on which all but the last are 0."""
    (chart,) = charts.charts({"gradient_norm_generator": [(1.0, 1.0), (2.0, 1e7), (3.0, 1e14)]})
    down = [float(point.split()[1]) for point in chart.lines[0].path[1:].split("L")]
    assert down[1] == pytest.approx((down[0] + down[2]) / 2, abs=0.1)
    assert (chart.y_ticks[0][1], chart.lines[0].last) == ("1", 1e14)
    (small,) = charts.charts({"gradient_norm_generator": [(1.0, 1.0), (2.0, 3.0)]})
    assert small.y_ticks[0][1] == "1"
    assert float(small.lines[0].path.split()[-1]) == charts.TOP


# ---- what is taken of the images ----


def test_best_and_worst_are_by_the_distance_to_a_real_image() -> None:
    """Image i is i grey and i away from the only real ones. Kills farthest first, and the distance to training images."""
    features = torch.arange(40.0)[:, None].expand(-1, 2).contiguous()
    fake = ArrayImages(np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3))
    data = Comparison(real=torch.zeros(2, 2), fake=features, train=features.flip(0) + 100)
    best, worst = (np.asarray(Image.open(io_of(strip.png)).convert("L"))[4, 4::50][:8].tolist() for strip in seen.by_distance(data, fake))
    assert best == list(range(8))
    assert worst == list(range(39, 31, -1))


def io_of(png: bytes) -> io.BytesIO:
    return io.BytesIO(png)


def test_a_class_row_shows_its_class_and_both_shares() -> None:
    labels = np.array([0, 2, 2, 0, 2, 2])
    fake = ArrayImages((labels * 100).astype(np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3))
    features = torch.randn(6, 2, generator=keyed_rng(0, "test"))
    data = Comparison(
        real=features, fake=features, train=features, real_classes=np.array([0, 0, 0, 2, 2, 1]), fake_classes=labels, num_classes=3
    )
    found = seen.class_rows(data, fake, ["a", "b", "c"])
    rows = found["classes"]
    assert [(row.name, row.real_share, row.fake_share) for row in rows] == [("a", 0.5, 2 / 6), ("b", 1 / 6, 0.0), ("c", 2 / 6, 4 / 6)]
    assert rows[1].png == b""
    assert np.asarray(Image.open(io_of(rows[2].png)).convert("LA"))[4, 4::50].tolist()[:4] == [[200, 255]] * 4
    assert found["classes_by"] == "as the extractor sees them"


# ---- the page ----


BASELINE = {"n": 30, "split": "val", "recall": 0.9}


def measured_so() -> dict[str, Any]:
    values = {**near(4.0, 0.5), **near(0.5, 0.1, "kid"), **near(0.8, 0.05, "precision"), **near(0.7, 0.05, "recall"), "class_coverage": 1.0}
    return values | {"memorized_share": 0.02, "ruler": {"alike": {"fid": 4.0}}, "baseline": BASELINE, "protocol": PROTOCOL}


def project(root: Path) -> dict[str, Any]:
    """A project folder with everything that the page reads, its texts as awkward as they come; returns the evaluation."""
    rng = np.random.default_rng(0)

    def picture(path: Path, height: int, width: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)

    picture(root / "samples" / "grid.png", 400, 900)
    for name in ("interpolation", "directions_factorised", "directions_principal"):
        picture(root / "samples" / f"{name}.png", 200, 500)
    picture(root / "reports" / "plots" / "features.png", 400, 832)
    for step in range(12):
        picture(root / "reports" / "training" / "grids" / f"images-{step:012d}.png", 100, 160)
    training = root / "reports" / "training"
    steps = range(1, 40)
    training.joinpath("history.csv").write_text(
        "step,images_seen,loss_generator,loss_discriminator,logit_real,logit_fake\n"
        + "".join(f"{i},{i * 1000},{1 / i},{2 - 1 / i},{i / 9},{-i / 9}\n" for i in steps)
    )
    training.joinpath("health.csv").write_text(
        "step,images_seen,diversity,real_logits,held_out_logits,fake_logits,gradient_norm_generator\n"
        + "".join(f"{i},{i * 1000},{1 / i},{i},{i / 2},{-i},{i * 1e13}\n" for i in steps)
    )
    alarm = {
        "name": "mode_collapse",
        "images_seen": 20_000,
        "value": 0.01,
        "threshold": 0.1,
        "action": "stop",
        "meaning": "<b>All</b> look alike.",
    }
    training.joinpath("alarms.json").write_text(json.dumps([alarm]))
    classes = {
        "a" * 90: {"test": 5, "train": 9, "val": 1},
        "<script>alert(1)</script>": {"test": 7, "train": 9, "val": 1},
        "gone": {"test": 0},
    }
    data = {
        "images": {"total": 32},
        "source": "image_folder",
        "classes": {"images": classes},
        "warnings": ["few " * 60],
        "notes": ["x" * 300],
    }
    (root / "reports" / "data.json").write_text(json.dumps(data))
    facts = {
        "family": "dcgan",
        "images_seen": 40_000,
        "git_commit": "0123abc" * 5,
        "data_digest": "f" * 64,
        "sha256": "0" * 64,
        "rollbacks": [],
        "image": {"size": [8, 8], "class_counts": [9, 9, 0]},
        "class_names": list(classes),
    }
    (root / "models").mkdir()
    (root / "models" / "generator.json").write_text(json.dumps(facts))
    (root / "data" / "calibration").mkdir(parents=True)
    calibrated().write(root / "data" / "calibration")
    return measured_so()


def looked() -> seen.Seen:
    images = np.random.default_rng(1).integers(0, 256, (64, 3, 12, 10), dtype=np.uint8)
    strip = seen.Strip(png=seen.synthetic(images[:16], columns=8), title="Most like a real image", caption="Nearest first.")
    row = seen.ClassRow(name="b" * 80, png=seen.synthetic(images[:10], columns=10), real_share=0.5, fake_share=0.4)
    return seen.Seen(
        real=seen.tiles_png(images, columns=8),
        fake=seen.synthetic(images, columns=8),
        classes=(row, seen.ClassRow(name="<script>alert(2)</script>", png=b"", real_share=0.0, fake_share=0.0)),
        num_classes=90,
        classes_by="as they were asked for",
        extremes=(strip,) * 4,
        pairs=seen.pairs(images[:20], images[20:40], np.linspace(0, 1, 20)),
        judged=(strip,),
    )


def test_the_page_is_one_file_that_escapes_what_it_shows(tmp_path: Path) -> None:
    """Kills autoescape off; a picture, a font or a script that is fetched; a class without images that is listed."""
    page = report.render(tmp_path, project(tmp_path), looked())
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;script&gt;alert(2)" in page
    assert "&lt;b&gt;All&lt;/b&gt; look alike." in page
    sources = {source.partition(",")[0] for source in re.findall(r'(?:src|href)="([^"#]+)"', page)}
    assert sources == {"data:image/png;base64", "data:", "registration.html"}  # the last is a link to the page beside it
    assert "url(" not in page
    assert "<th>gone</th>" not in page
    assert page.index('class="verdict') < page.index('id="ladder"') < page.index('id="numbers"') < page.index('id="rebuild"')
    assert page == report.render(tmp_path, measured_so(), looked())  # the same bytes twice


def test_a_number_without_a_direction_has_its_interval_in_the_table(tmp_path: Path) -> None:
    told = {"nearest_train_distance": 0.5, "nearest_train_distance_low": 0.41, "nearest_train_distance_high": 0.62, "prdc_images": 60.0}
    page = report.render(tmp_path, {**project(tmp_path), **told}, looked())
    assert "<th>nearest_train_distance</th><td>0.5</td><td>0.41 to 0.62</td>" in page
    assert "<th>prdc_images</th><td>60</td><td></td>" in page


def test_a_calibration_of_another_ruler_is_not_believed(tmp_path: Path) -> None:
    """Kills a ladder of other data, or of another extractor, under the numbers of this one."""
    values = project(tmp_path)
    made = {"data_digest": "d", "extractor_sha256": "e"}
    assert 'class="ladder"' in report.render(tmp_path, values | {"protocol": PROTOCOL | made})
    for key in made:
        assert 'class="ladder"' not in report.render(tmp_path, values | {"protocol": PROTOCOL | made | {key: "other"}})


def test_the_page_of_an_empty_project_says_what_it_lacks(tmp_path: Path) -> None:
    page = report.render(tmp_path, {"baseline": {}, "protocol": PROTOCOL})
    for lacking in (
        "samples/grid.png",
        "reports/data.json",
        "models/generator.json",
        "training/history.csv",
        "data/calibration/calibration.json",
    ):
        assert f"{lacking} was not found" in page
    assert "<img" not in page


def test_a_misspelt_name_in_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nothing_of_that_name }}").render()
    assert environment().from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(scheme: Any, tmp_path: Path) -> None:
    """On a phone and on a desk, in light and in dark: no error, nothing beyond the window's edge, every picture there.

    Kills a long name that is not broken, a table that does not scroll by itself, and a scheme that is not followed.
    """
    path = tmp_path / "report.html"
    path.write_text(report.render(tmp_path, project(tmp_path), looked()), encoding="utf-8")
    views, console = browser.look(path, widths=(390, 1200), scheme=scheme)
    assert console == []
    for view, width in zip(views, (390, 1200), strict=True):
        assert (view.width, view.overflow, view.missing, view.outside) == (width, 0, 0, [])
        assert view.images > 40
        assert view.is_dark == (scheme == "dark")
        assert (view.background == "rgb(15, 19, 24)") == view.is_dark


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_the_browser_finds_what_is_planted(tmp_path: Path) -> None:
    """The test above is only as good as what it asks: an error of a script, a wide element, a broken picture."""
    path = tmp_path / "bad.html"
    path.write_text('<!doctype html><body><div style="width:700px">x</div><img src="nowhere.png"><script>missing()</script></body>')
    (view,), console = browser.look(path, widths=(390,), scheme="light")
    assert view.overflow > 300
    assert len(view.outside) == 1
    assert (view.images, view.missing) == (1, 1)
    assert any("missing is not defined" in line for line in console)
