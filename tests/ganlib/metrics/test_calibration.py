"""What a ladder says about a value: intervals, verdicts and equivalents by hand."""

import math

import numpy as np
import pytest

from ganlib.metrics import METRICS, ladder, needs
from ganlib.metrics.calibration import Calibration, Null, Rungs, judge, read, told, veto
from ganlib.metrics.needs import Value

NULL = Null(mean=1.0, low=0.5, high=1.5, draws=10)
DISTANCE = Value(key="d", title="D", meaning="A distance.", better="lower", must_see=("noise", "phase_scrambling"))
SHARE = Value(key="d", title="D", meaning="A share.", better="higher", must_see=("noise",))
TARGET = Value(key="d", title="D", meaning="An accuracy.", better="target", ideal=1.0, must_see=("noise",))


def rungs(values: list[float], *, strengths: list[float] | None = None, applies: bool = True) -> Rungs:
    strengths = strengths or [float(i + 1) for i in range(len(values))]
    return Rungs(
        title="t",
        unit="u",
        applies=applies,
        why_not=None if applies else "no",
        strengths=strengths if applies else [],
        values={"d": values},
    )


def calibration(value: Value, faults: dict[str, Rungs], *, doubt: str = "", null: Null = NULL) -> Calibration:
    return Calibration(
        data_digest="d" * 64,
        extractor_sha256="e" * 64,
        split="test",
        n=100,
        null={"d": null},
        faults=faults,
        metrics={"d": judge("d", value, null, faults, doubt=doubt)},
        extractor_accuracy=0.9,
        majority_share=0.1,
        warnings=[],
    )


def test_the_null_is_a_prediction_interval():
    """t(2, 0.995) = 9.924843 from a table; kills the interval of the mean, which no further draw lies in, and n in the place of n - 1."""
    null = Null.of([1.0, 2.0, 3.0])
    assert (null.mean, null.draws) == (2.0, 3)
    assert null.high - null.mean == pytest.approx(9.924843 * 1.0 * math.sqrt(4 / 3), rel=1e-6)
    assert null.mean - null.low == pytest.approx(null.high - null.mean)


def test_a_further_draw_lies_in_it_99_times_of_100():
    drawn = np.random.default_rng(0).normal(size=(4000, 11))
    inside = [(null := Null.of(row[:10])).low <= row[10] <= null.high for row in drawn]
    assert np.mean(inside) == pytest.approx(0.99, abs=0.005)


@pytest.mark.parametrize(
    ("value", "values", "sees", "rises"),
    [
        (DISTANCE, [1.2, 1.6, 2.0], 2.0, True),
        (DISTANCE, [0.1, 0.2, 0.3], None, False),  # better than real: no fault is seen in that
        (DISTANCE, [1.6, 1.4, 2.0], 3.0, True),  # from where on all stronger ones are; down by less than the half width
        (DISTANCE, [9.0, 5.0, 2.0], 1.0, False),
        (DISTANCE, [1.6, 2.0, 1.4], None, False),  # not in its strongest form
        (SHARE, [0.8, 0.4, 0.1], 2.0, True),
        (SHARE, [1.8, 1.9, 2.0], None, False),
        (TARGET, [1.2, 1.6, 2.0], 2.0, True),
        (TARGET, [0.8, 0.4, 0.1], 2.0, True),
    ],
)
def test_what_is_seen_from_which_strength(value, values, sees, rises):
    """Kills: the wrong side counted, the first strength seen by chance, a fault that vanishes in its strongest form."""
    verdict = judge("d", value, NULL, {"noise": rungs(values)}, doubt="")
    assert (verdict.sees, verdict.rises) == ({"noise": sees}, {"noise": rises})
    assert verdict.is_trusted == (sees is not None)


def test_what_must_be_seen_is_what_can_be_had():
    """Trusted: every fault of `must_see` that applies. Kills: one of them is enough, and a fault that the data cannot have."""
    strong, blind, none = rungs([2.0, 3.0]), rungs([1.1, 1.2]), rungs([], applies=False)
    assert judge("d", DISTANCE, NULL, {"noise": strong, "phase_scrambling": strong, "blur": blind}, doubt="").is_trusted
    assert judge("d", DISTANCE, NULL, {"noise": strong, "phase_scrambling": none}, doubt="").is_trusted
    verdict = judge("d", DISTANCE, NULL, {"noise": strong, "phase_scrambling": blind}, doubt="")
    assert not verdict.is_trusted
    assert verdict.why == "cannot tell real images (0.5 to 1.5) from 200 % of the phases scrambled (1.2)"
    doubtful = judge("d", DISTANCE, NULL, {"noise": strong, "phase_scrambling": strong}, doubt="the extractor has learnt nothing")
    assert (doubtful.is_trusted, doubtful.why) == (False, "the extractor has learnt nothing")


def test_what_takes_a_fault_for_better_than_real_images_is_not_trusted():
    """A precision that a blur raises crowns the blurred. Kills the test of `must_see` alone; one class alone may well be the easier to recognise."""
    strong, better = rungs([0.4, 0.1]), rungs([1.4, 1.7])
    verdict = judge("d", SHARE, NULL, {"noise": strong, "blur": better}, doubt="")
    assert not verdict.is_trusted
    assert verdict.why == "takes a blur of 2 pixels (1.7) for better than real images (0.5 to 1.5)"
    assert judge("d", SHARE, NULL, {"noise": strong, "blur": rungs([1.7, 1.4])}, doubt="").is_trusted
    assert judge("d", SHARE, NULL, {"noise": strong, "one_mode": better}, doubt="").is_trusted
    assert judge("d", TARGET, NULL, {"noise": strong, "blur": rungs([1.1, 1.0])}, doubt="").is_trusted


def test_a_null_without_width_sees_what_moves():
    verdict = judge("d", SHARE, Null(mean=1.0, low=1.0, high=1.0, draws=10), {"noise": rungs([1.0, 0.9])}, doubt="")
    assert verdict.sees == {"noise": 2.0}


def test_where_a_generator_stands_is_interpolated():
    """By hand: 1 for real images, 2 at 0.5 pixels, 4 at 1 pixel. Kills: the nearest strength, a fault that it does not rise with, JPEG from 0 up."""
    found = calibration(
        DISTANCE,
        {
            "blur": rungs([2.0, 4.0], strengths=[0.5, 1.0]),
            "jpeg": rungs([2.0, 6.0], strengths=[60.0, 20.0]),
            "noise": rungs([1.2, 9.0], strengths=[0.5, 1.0]),
            "phase_scrambling": rungs([9.0, 2.0], strengths=[0.5, 1.0]),  # falls
        },
    )
    assert found.equivalent("d", 1.4) == ["not to be told from real images"]
    assert found.equivalent("d", 0.2) == ["not to be told from real images"]
    assert found.equivalent("d", 3.0) == [
        "as far from real as a blur of 0.75 pixels",
        "as far from real as a JPEG of quality 50",
        "as far from real as 62 % of noise mixed in",
    ]
    # between nothing and the mildest
    assert found.equivalent("d", 1.6)[:2] == ["as far from real as a blur of 0.3 pixels", "as far from real as a JPEG of quality 76"]
    assert found.equivalent("d", 5.0)[0] == "farther from real than a blur of 1 pixels"
    assert found.equivalent("unknown", 5.0) == []


def test_what_is_counted_has_no_half():
    """Kills "as far from real as 0.39 dropped classes"."""
    found = calibration(DISTANCE, {"dropped_class": rungs([2.0, 6.0], strengths=[1.0, 5.0])})
    assert found.equivalent("d", 1.6) == ["nearer to real than 1 dropped class"]
    assert found.equivalent("d", 2.0) == ["as far from real as 1 dropped class"]
    assert found.equivalent("d", 4.5) == ["farther from real than 3 dropped classes"]
    assert found.equivalent("d", 5.0) == ["as far from real as 4 dropped classes"]


def test_written_and_read_it_is_the_same(tmp_path):
    found = calibration(TARGET, {"noise": rungs([1.2, 2.0]), "colour_shift": rungs([], applies=False)})
    found.write(tmp_path)
    assert read(tmp_path) == found
    assert list(read(tmp_path).faults) == ["noise", "colour_shift"]  # in its own order
    assert read(tmp_path / "none") is None
    (tmp_path / "calibration.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="dvc repro -f calibrate"):
        read(tmp_path)


def test_an_evaluation_says_what_is_not_to_be_trusted():
    blind = calibration(SHARE, {"noise": rungs([1.0, 1.1])})
    digests = {"data_digest": "d" * 64, "extractor_sha256": "e" * 64}
    ruler = told(blind, {"d": 0.9}, {"d": 0.9}, **digests)
    assert list(ruler["untrusted"]) == ["d"]
    assert veto(ruler, "d_low") == veto(ruler, "d") != ""
    assert "no value of evaluate.metrics is; try another reference.extractor" in veto(ruler, "d")
    assert "set register.metric to one that is trusted: kid" in veto(ruler | {"trusted": ["kid"]}, "d")
    assert veto(ruler, "kid") == veto({}, "d") == ""
    assert told(blind, {"other": 0.9}, {}, **digests)["untrusted"] == {}
    good = calibration(DISTANCE, {"noise": rungs([2.0, 3.0])})
    placed = told(good, {"d": 0.5}, {"d": 2.5, "other": 1.0}, **digests)  # of more images than the ladder's it is 0.5: like real ones
    assert (placed["trusted"], placed["alike"]) == (["d"], {"d": 2.5})
    assert placed["stands"] == {"d": ["as far from real as 150 % of noise mixed in"]}
    assert told(good, {"d": 2.5}, {}, **digests)["stands"] == {}
    assert told(None, {"d": 1.0}, {}, **digests)["warnings"] == ["not calibrated: run `dvc repro calibrate`"]
    with pytest.raises(ValueError, match="made with extractor_sha256 eeeeeeeeeeee, expected ffffffffffff"):
        told(good, {"d": 2.5}, {}, **digests | {"extractor_sha256": "f" * 64})


@pytest.mark.parametrize(
    ("sizes", "split"),
    [({"val": 2000, "test": 9000}, "val"), ({"val": 1999, "test": 9000}, "test"), ({"val": 90, "test": 0}, "val")],
)
def test_the_split(sizes, split):
    assert ladder.choose_split(sizes) == split


def test_images_a_side():
    """Half of them, bounded, fewer where they are large, none where they are too few to say anything."""
    assert [ladder.side_images(n, (1, 8, 8)) for n in (99, 100, 301, 90_000)] == [0, 50, 150, ladder.MAX_SIDE]
    assert ladder.side_images(90_000, (3, 512, 512)) == ladder.MAX_VALUES // (3 * 512 * 512)
    real, fake, spare = ladder.halves(np.arange(20) * 3, 8, seed=0, draw=1)
    assert sorted([*real, *fake, *spare]) == list(range(0, 60, 3))
    assert (len(real), len(fake)) == (8, 8)


def test_every_value_must_see_faults_that_there_are():
    from ganlib.metrics.faults import FAULTS

    for need in map(needs.of, (entry.value for entry in METRICS)):
        for value in need.gives:
            assert value.must_see or need.pairs, value.key  # what is made of an image is held against it, not against known faults
            assert set(value.must_see) <= set(FAULTS.names()), value.key
