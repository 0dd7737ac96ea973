"""What the benchmarks of docs/ZOO.md count and write; nothing is trained."""

import json
import math

import numpy as np
import pytest

from benchmarks import little_data, modes, ruler, vanishing, zoo
from pipeline import preflight, recipe


def row(name, fid=None, *, seed=0, **other):
    values = {
        "name": name,
        "seed": seed,
        "seconds": 1.0,
        "images_per_second": 10.0,
        "images_seen": 100,
        "machine": "m",
        "seconds_trained": 1.0,
    }
    values |= {"seconds_trained": 1.4, "cpu_seconds_trained": 0.9}
    values |= {"commit": "c" * 40, "parameters": {"discriminator": 2_000, "generator": 1_000}, "status": "done"}
    if fid is not None:
        values["results"] = dict.fromkeys(zoo.SHOWN, 0.5) | {"fid": fid}
    return values | other


# ---- modes


def test_reverse_kl_by_hand():
    uniform = np.full(4, 0.25)
    assert modes.reverse_kl(uniform, uniform) == 0
    assert modes.reverse_kl(np.array([1.0, 0, 0, 0]), uniform) == pytest.approx(math.log(4))  # all in one of four modes
    assert modes.reverse_kl(np.array([0.5, 0.5, 0, 0]), uniform) == pytest.approx(math.log(2))
    assert modes.reverse_kl(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == math.inf  # a mode that the data do not have
    assert modes.reverse_kl(np.array([0.75, 0.25]), np.array([0.5, 0.5])) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_points_count_for_a_mode_only_within_three_deviations():
    centres = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    points = np.array([[0.0, 0.0], [0.29, 0.0], [1.0, 0.31], [1.0, 0.4]])  # two good ones at the first centre, two bad ones near the second
    found = modes.of_points(points, centres, 0.1)
    assert found["modes"] == 1
    assert found["high_quality"] == 0.5
    assert found["reverse_kl"] == pytest.approx(math.log(1.5))  # halves in two of three equal modes


def test_samples_of_a_mixture_cover_it():
    for mixture, count in ((modes.Mixture.ring(), 8), (modes.Mixture.grid(), 25)):
        found = modes.of_points(mixture.draw(5000, seed=0), mixture.centres, mixture.std)
        assert found["modes"] == count
        assert found["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.005)  # a plane's normal within 3 deviations
        assert 0 <= found["reverse_kl"] < 0.01
        assert np.abs(mixture.draw(5000, seed=1)).max() < 1  # a tanh can reach all of it


def test_stacked_digits_are_read_as_a_number():
    digits = np.array([[0, 1, 2], [0, 1, 2], [9, 9, 9], [9, 9, 9]])
    certainty = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.8], [1.0, 0.95, 0.95], [0.1, 0.1, 0.1]])
    found = modes.of_stacks(digits, certainty, np.full(1000, 1e-3))
    assert found == {"modes": 2.0, "high_quality": 0.5, "reverse_kl": pytest.approx(math.log(500))}


def test_every_method_of_modes_has_valid_settings():
    from ganlib.models import ImageSpec
    from ganlib.tasks import TASKS
    from ganlib.training.loop import TrainingSpec

    for data, image in (("ring", ImageSpec(channels=1, size=(1, 2))), ("stacked", ImageSpec(channels=3, size=(8, 8)))):
        for table, entries in modes.methods(data).items():
            for changes in entries.values():
                values = modes.settings(data, table, changes) | {"data": "", "folder": ""}
                spec = TrainingSpec.model_validate_json(json.dumps(values))
                TASKS.get(spec.task.name)().check(spec.model, spec.task, spec.train, image)


def test_points_reach_the_networks_unrounded(tmp_path):
    mixture = modes.Mixture.ring()
    points = mixture.draw(256, seed=0)
    arrow = modes.write_arrow(tmp_path / "a.arrow", np.zeros((256, 1, 1, 2), np.uint8))
    source = modes.Points((points[:, None, None] + 1) * 127.5)
    running, _ = modes.train(modes.settings("ring", "losses", {}), arrow, seed=0, seconds=0.0, images=source)
    (shard,) = running.batches.shards("x", step=0, repeat=0, images_seen=0)
    seen = shard.real.flatten(1).numpy()
    assert np.abs(seen[:, None] - points[None]).sum(2).min(1).max() < 1e-6


# ---- the tables


def test_rows_are_sorted_by_their_mean_fid_and_failures_stay():
    rows = [
        row("worse", 9.0),
        row("best", 2.0),
        row("best", 4.0, seed=1),
        row("broken", status="diverged", failure="it is not finite. And so on"),
    ]
    assert [name for name, _ in zoo.of_names(rows)] == ["best", "worse", "broken"]
    lines = zoo.table(rows).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == ["best", "worse", "broken"]
    assert "**3.00 ± 1.41**" in lines[0]
    assert "2 seeds" in lines[0]
    assert "**9.00**" in lines[1]
    assert "1k / 2k" in lines[1]
    assert "diverged: it is not finite" in lines[2]


def test_a_failed_seed_is_told_beside_those_that_worked():
    text = zoo.table([row("a", 3.0), row("a", seed=1, status="diverged", failure="logits"), row("a", 5.0, seed=2, collapsed=True)])
    assert "**4.00" in text
    assert "3 seeds; 1 collapsed; diverged (seed 1): logits" in text


def test_alarms_are_told_once():
    rows = [row("a", 3.0, alarms=["mode_collapse"]), row("a", 3.0, seed=1, alarms=["mode_collapse", "overfitting"])]
    assert zoo.table(rows).endswith("| 2 seeds; mode collapse; overfitting |")


def test_what_is_told_above_a_table_has_the_seconds_that_were_used():
    text = zoo.told([row("a", 3.0), row("b", 4.0, cpu_seconds_trained=2.2), row("c", status="failed", failure="x")], "command")
    assert "`command`: 1 s of training each (found: 1 to 2 CPU seconds, 1 to 1 on the clock)" in text
    assert "commit cccccccccc." in text
    assert zoo.told([], "command") == "`command`"


def test_collapse_is_missing_classes_or_no_recall():
    assert not zoo.has_collapsed({"class_coverage": 1.0, "recall": 0.3})
    assert zoo.has_collapsed({"class_coverage": 0.8, "recall": 0.3})
    assert zoo.has_collapsed({"class_coverage": 1.0, "recall": 0.0})


def test_the_page_is_changed_between_its_markers_only():
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n"
    changed = zoo.put(text, "x", "new")
    assert changed == "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n"
    assert zoo.put(changed, "x", "new") == changed
    with pytest.raises(ValueError, match="y:begin"):
        zoo.put(text, "y", "new")


def test_every_marker_the_benchmarks_write_is_on_the_page():
    text = zoo.PAGE.read_text(encoding="utf-8")
    for marker in ("zoo", "gallery", "photos", "photos_gallery", "modes", "vanishing", "little_data"):
        assert zoo.put(text, marker, "x") != text


@pytest.mark.parametrize("name", ["wgan", "stylegan2", "diffaugment"])
def test_a_recipe_is_laid_as_the_command_lays_it(name, tmp_path):
    target = tmp_path / "params.yaml"
    target.write_text((zoo.ROOT / "params.yaml").read_text())
    recipe.apply(zoo.ROOT / "recipes" / f"{name}.yaml", target)
    job = zoo.Job(name=name, seed=0, seconds=1.0, changes=zoo.changes_of(name))
    assert zoo.settings(job) == preflight.load(target)


def test_little_data_changes_the_augmentation_alone():
    for job in little_data.jobs(little_data.BASES, [0], 1.0, 1000):
        base, augmentation, _ = job.name.split(", ")
        plain = zoo.settings(zoo.Job(name=base, seed=0, seconds=1.0, changes=zoo.changes_of(base)))
        found = zoo.settings(job)
        assert found.task.augment == little_data.AUGMENTATIONS[augmentation]
        assert found.task.model_dump(exclude={"augment"}) == plain.task.model_dump(exclude={"augment"})
        assert (found.model, found.optim, found.train) == (plain.model, plain.optim, plain.train)
        assert "/" not in job.key


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr(zoo, "digest", lambda job: f"digest of {job.name}")
    return zoo.Job(name="a", seed=3, seconds=1.0, changes=[])


@pytest.mark.parametrize(("status", "is_kept"), [("done", True), ("diverged", True), ("failed", False)])
def test_what_is_finished_is_not_trained_again(job, tmp_path, status, is_kept):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a-3.json").write_text(json.dumps(row("a", 1.0, seed=3, status=status, digest="digest of a")))
    assert (zoo.finished(job, tmp_path) is not None) == is_kept
    (tmp_path / "results" / "a-3.json").write_text(json.dumps(row("a", 1.0, seed=3, digest="other settings")))
    assert zoo.finished(job, tmp_path) is None


def test_a_training_that_dies_leaves_a_row(job, tmp_path, monkeypatch):
    monkeypatch.setattr(
        zoo.subprocess, "run", lambda *_, **__: zoo.subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: no such loss\n")
    )
    (found,) = zoo.run_jobs([job], work=tmp_path, parallel=1, say=lambda _: None)
    assert (found["status"], found["failure"]) == ("failed", "ValueError: no such loss")
    assert "failed: ValueError: no such loss" in zoo.table(zoo.all_rows(tmp_path, ["a"], seconds=1.0))


# ---- vanishing gradients


def test_the_gradient_is_told_relative_to_its_largest():
    curves = {
        "a": {"norms": [[1.0, 8.0, 2.0], [4.0, 2.0, 2.0]], "accuracies": [[0.5, 0.9, 1.0], [0.5, 0.8, 0.9]]}
    }  # geometric means 2, 4, 2
    assert vanishing.markdown(curves, [0, 5, 10], [5, 10]).splitlines()[-1] == "| a | 1 | 0.5 | 95.0% |"


# ---- ruler


def test_a_fault_of_the_ruler_is_the_one_that_it_names():
    """Kills scrambling that turns the frequency 0 as well: half of the pictures lose their mean, are cut to black, and are told by that."""
    pictures = np.random.default_rng(0).integers(90, 166, (40, 3, 16, 16), dtype=np.uint8)
    means = pictures.mean((2, 3))
    for name in ("scrambled", "shuffled", "blur 2", "Gaussian 1"):
        made = ruler.FAULTS[name](pictures, np.random.default_rng(0))
        assert made.shape == pictures.shape
        np.testing.assert_allclose(made.mean((2, 3)), means, atol=3.0)
        assert not np.array_equal(made, pictures)
