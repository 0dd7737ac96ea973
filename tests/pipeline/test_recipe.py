from pathlib import Path

import pytest

from ganlib.models import ImageSpec
from ganlib.tasks import TASKS
from pipeline import preflight, recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_gives_valid_params_and_keeps_the_comments(path, tmp_path):
    target = tmp_path / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    recipe.apply(path, target)
    preflight.load(target)
    assert "# n_critic" in target.read_text()
    assert target.read_text() != (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_networks_and_phases(path, tmp_path):
    target = tmp_path / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    recipe.apply(path, target)
    chosen = preflight.load(target)
    image = ImageSpec(channels=chosen.data.channels, size=chosen.data.image_size, class_counts=(10, 20, 30))
    task = TASKS.get(chosen.task.name)()
    task.check(chosen.model, chosen.task, chosen.train, image)
    play = task.build(model=chosen.model, task=chosen.task, optim=chosen.optim, train=chosen.train, image=image)
    assert play.sampled in set(play.networks)
    assert {phase.trains for phase in play.phases} == set(play.networks)


def test_a_bad_recipe_leaves_params_untouched(tmp_path):
    target, bad = tmp_path / "params.yaml", tmp_path / "bad.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    bad.write_text("task: {loss: hing}")
    with pytest.raises(ValueError, match="did you mean 'hinge'"):
        recipe.apply(bad, target)
    with pytest.raises(ValueError, match=r"nothing.yaml cannot be read.*recipes: bad.yaml"):
        recipe.apply(tmp_path / "nothing.yaml", target)
    assert target.read_text() == (ROOT / "params.yaml").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml", "params.yaml"]
