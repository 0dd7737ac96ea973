from pathlib import Path

import pytest

from ganlib.models import ImageSpec
from ganlib.schedule import Schedule, written_in
from ganlib.tasks import TASKS
from pipeline import edit, preflight, recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_gives_valid_params_and_keeps_the_comments(path, tmp_path):
    target = tmp_path / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    recipe.apply(path, target)
    preflight.load(target)
    assert "# the newest; and the nearest to the data:" in target.read_text()
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
    assert play.averaged in set(play.networks)
    assert {phase.trains for phase in play.phases} == set(play.networks)


@pytest.mark.parametrize("name", ["wgan_gp", "stylegan2", "progressive"])
def test_a_recipe_of_another_task_leaves_nothing_behind(name, tmp_path):
    """Over one whose task has other keys and other networks, and back. Kills: a network or a key that stays, a key that is not put back."""
    target, plain = tmp_path / "params.yaml", tmp_path / "plain.yaml"
    for path in (target, plain):
        path.write_text((ROOT / "params.yaml").read_text())
    recipe.apply(ROOT / "recipes" / "vae.yaml", target)
    chosen = preflight.load(target)
    assert set(chosen.optim.networks) == set(chosen.model.networks) == {"autoencoder"}
    recipe.apply(ROOT / "recipes" / f"{name}.yaml", target)
    recipe.apply(ROOT / "recipes" / f"{name}.yaml", plain)
    assert preflight.load(target) == preflight.load(plain)


def test_what_the_task_of_a_recipe_does_not_have_is_refused(tmp_path):
    """Kills: a `loss` or a `discriminator` that a recipe asks for and that is left out without a word."""
    target, bad = tmp_path / "params.yaml", tmp_path / "bad.yaml"
    for text, message in (
        ("task: {name: vae, loss: nonsense}", r"task.loss='nonsense' is not a known key; legal: beta, likelihood, name, sigma"),
        ("task: {name: vae}", r"optim.autoencoder is missing"),
        (
            "task: {name: vae}\noptim: {autoencoder: {lr: 1.0e-3}, discriminator: {lr: 1.0e-3}}",
            r"optim.discriminator=.* is not a known key",
        ),
    ):
        target.write_text((ROOT / "params.yaml").read_text())
        bad.write_text(text)
        with pytest.raises(ValueError, match=message):
            recipe.apply(bad, target)


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


def ends(number):
    return number.ends if isinstance(number, Schedule) else (number,)


# Half-lives of the generator's average in generator updates, and where each is from. A decay d an update has half-life ln 2 / -ln d.
HALF_LIVES = {
    "gngan": (6931, "decay 0.9999 (released code of arXiv:2109.02235)"),
    "biggan": (6931, "decay 0.9999 (arXiv:1809.11096, section 3)"),
    "progressive": (693, "decay 0.999 (arXiv:1710.10196, appendix A.1)"),
    "stylegan2": (312, "10,000 images in batches of 32 (released code of arXiv:1912.04958)"),
    "stylegan2_ada": (7813, "500,000 images in batches of 64 (released code of arXiv:2006.06676, cifar)"),
    "r3gan": (9766, "5,000,000 images in batches of 512 (released code of arXiv:2501.05441, CIFAR10)"),
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_the_average_of_its_paper_whatever_was_laid_before(path, tmp_path):
    """Mutants: a half-life in images of another batch (repeats forgotten); one recipe's average left behind in the next."""
    target = tmp_path / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    shipped = preflight.load(target).train.ema_halflife_images
    if "optim" in edit.plain(path):  # else networks, optimizers and the average are those of whatever is there
        recipe.apply(ROOT / "recipes" / "stylegan2_ada.yaml", target)
    recipe.apply(path, target)
    chosen = preflight.load(target)
    if path.stem not in HALF_LIVES:
        assert chosen.train.ema_halflife_images == shipped
        return
    updates, source = HALF_LIVES[path.stem]
    images_per_update = chosen.train.batch_images * chosen.task.discriminator_repeats
    assert max(ends(chosen.train.ema_halflife_images)) == updates * images_per_update, source


def test_r3gan_is_the_released_schedule(tmp_path):
    """By hand, from the released CIFAR-10 settings: half way through a burn-in of 20 million of 250 million images half of every change is done."""
    target = tmp_path / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    recipe.apply(ROOT / "recipes" / "r3gan.yaml", target)
    values = preflight.load(target)
    schedules = {key: one for section in ("task", "optim", "train") for key, one in written_in(getattr(values, section), section)}
    halves = {"lr": (2e-4, 1.25e-4, 5e-5), "options.betas.1": (0.9, 0.945, 0.99)}
    expected = {f"optim.{network}.{name}": numbers for network in ("generator", "discriminator") for name, numbers in halves.items()}
    expected |= {f"task.regularizers.{name}.gamma": (0.05, 0.0275, 0.005) for name in ("r1", "r2")}
    expected["train.ema_halflife_images"] = (0.0, 9766 * 64 / 2, 9766 * 64)
    found = {
        key: tuple(one.value(images_seen=images, total_images=250_000_000) for images in (0, 10_000_000, 20_000_000))
        for key, one in schedules.items()
    }
    assert found == {key: pytest.approx(numbers) for key, numbers in expected.items()}
    assert {one.schedule for one in schedules.values()} == {"cosine"}
