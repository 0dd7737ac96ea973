"""`make exact` says equal, and is able to say something else."""

from types import SimpleNamespace

import pytest
import torch

from ganlib.storage import open_storage
from ganlib.training.state import FORMAT, BundleStore
from pipeline import exact

pytestmark = pytest.mark.chaos

SAME = {"generator": "aa" * 32, "losses": "bb" * 32}


def test_a_difference_is_named_and_ends_in_exit_code_1(monkeypatch, capsys):
    ways = {"one process": SAME, "torchrun 2": SAME, "ray 4": {**SAME, "losses": "bc" * 32}}
    assert exact.differences(ways) == ["ray 4 differs from one process in losses"]
    assert exact.differences({"one process": SAME, "torchrun 2": {"generator": SAME["generator"]}}) == [
        "torchrun 2 differs from one process in losses"
    ]
    assert exact.differences({"one process": SAME, "torchrun 2": dict(SAME)}) == []

    def told(expected_exit: int, last: str, prints: dict) -> None:
        monkeypatch.setattr(exact, "WAYS", [exact.Way(*name.split()) for name in prints])
        monkeypatch.setattr(exact, "run", lambda way, spec: prints[f"{way.launcher} {way.workers}"])
        monkeypatch.setattr("sys.argv", ["exact"])
        with pytest.raises(SystemExit) as end:
            exact.main()
        assert end.value.code == expected_exit
        assert capsys.readouterr().out.splitlines()[-1] == last

    told(0, "equal", {"torchrun 1": SAME, "ray 1": SAME})
    told(1, "ray 1 differs from torchrun 1 in generator", {"torchrun 1": SAME, "ray 1": {**SAME, "generator": "ab" * 32}})


def test_a_training_that_left_no_last_checkpoint_is_said(tmp_path):
    """Kills a run whose checkpoint is missing, damaged or too early, and is compared all the same."""
    spec = SimpleNamespace(folder=str(tmp_path), train=SimpleNamespace(total_images=64))
    store = BundleStore(open_storage(tmp_path), keep=3)

    def save(step):
        return store.save({"w": torch.zeros(2)}, {"format": FORMAT, "step": step, "images_seen": 16 * step}, [])

    with pytest.raises(ValueError, match=r"^ray 2: it ended, but its last checkpoint cannot be read: there is none in .*disk full"):
        exact._last(exact.Way("ray", 2), spec)
    save(3)
    with pytest.raises(ValueError, match=r"^ray 2: its last checkpoint is of 48 images, expected 64 or more"):
        exact._last(exact.Way("ray", 2), spec)
    last = save(4)
    assert exact._last(exact.Way("ray", 2), spec).images_seen == 64
    (tmp_path / last / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"step-000000004/state.json does not match its checksum"):
        exact._last(exact.Way("ray", 2), spec)


def test_a_recipe_is_laid_over_the_hard_settings_in_small(tmp_path):
    hard = exact.settings(None, 640)
    assert hard.task.regularizers == {"r1": {"gamma": 1.0, "interval_steps": 4}}
    assert (hard.train.batch_images, hard.train.logical_workers, hard.train.total_images) == (32, 4, 640)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {discriminator: {width: 8, normalization: none}}\n"
        "task: {loss: wasserstein, regularizers: {gradient_penalty: {weight: 10.0}}}\ntrain: {total_images: 9, precision: fp32}\n"
    )
    mine = exact.settings(recipe, 640)
    assert mine.task.regularizers == {"gradient_penalty": {"weight": 10.0}}
    assert mine.task.discriminator_repeats == 2
    assert (mine.train.precision, mine.train.total_images) == ("fp32", 640)


@pytest.mark.slow
def test_every_way_ends_in_the_same_bytes(make_clone):
    lines = make_clone().run("python", "-m", "pipeline.exact").stdout.splitlines()
    assert lines[-1] == "equal"
    assert len(lines) == len(exact.WAYS) + 2
    assert all("-  " not in line for line in lines)  # every run has every part
    for part in ("generator", "discriminator", "ema", "optimizer.generator", "optimizer.discriminator", "losses"):
        assert f"{part} " in lines[0]
