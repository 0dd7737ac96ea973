"""What a person reads from the page: bars that lie where their numbers are."""

import re

import pytest

from pipeline.report import page as report

PROTOCOL = {"n_fake": 80, "n_real": 60, "split": "test", "extractor": "classifier"}


def bars(root, values, baseline=None):
    """(left end, width, mark) in per cent of each bar on the page, in its order."""
    page = report.render(root, {**values, "baseline": baseline or {}, "protocol": PROTOCOL})
    found = re.findall(r"<div class=range><i style='left:(.*?)%;width:(.*?)%'></i><b style='left:(.*?)%'></b></div>", page)
    assert page.count("<div class=range>") == len(found)
    return [tuple(map(float, bar)) for bar in found]


def test_a_bar_spans_its_interval_and_its_mark_is_the_value(tmp_path):
    """A share is drawn on 0 to 100 %, another number on 0 to 1.25 times the larger of its upper end and the real images' score.

    Kills the mutants that swap two of (low, high, value).
    """
    fid = {"fid": 5.0, "fid_low": 2.0, "fid_high": 8.0}
    precision = {"precision": 0.6, "precision_low": 0.25, "precision_high": 0.75}
    assert bars(tmp_path, fid | precision) == [(20.0, 60.0, 50.0), (25.0, 50.0, 60.0)]
    assert bars(tmp_path, fid, {"fid": 16.0, "n": 30, "split": "val"}) == [(10.0, 30.0, 25.0)]


def test_a_bar_stays_on_the_page(tmp_path):
    ((left, width, mark),) = bars(tmp_path, {"precision": 1.0, "precision_low": -0.1, "precision_high": 1.2})
    assert (left, width, mark) == (0.0, 100.0, 100.0)


def test_no_interval_no_bar(tmp_path):
    assert bars(tmp_path, {"fid": 5.0, "kid": 0.1}) == []
    page = report.render(tmp_path, {"fid": 5.0, "fid_low": 2.0, "fid_high": 8.0, "baseline": {}, "protocol": PROTOCOL})
    assert "95 % interval 2 to 8" in page
    assert page.index("2 to 8") == pytest.approx(page.index("<div class=range>"), abs=200)  # beside its bar
