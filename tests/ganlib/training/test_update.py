"""One update, measured on the weights it moved."""

import pytest
import torch

from ganlib.training.loop import Running


def weights(running, name):
    return torch.cat([p.detach().flatten().double() for p in running.play.networks[name].parameters()])


def test_two_learning_rates_and_two_bounds_on_the_gradient(make_spec):
    """SGD moves the weights by lr * |gradient|, and these gradients are longer than their bounds (two rates: TTUR, arXiv:1706.08500)."""
    spec = make_spec(
        "bounded",
        model__name="mlp",
        optim__generator={"name": "sgd", "lr": 0.5, "max_gradient_norm": 1e-3},
        optim__discriminator={"name": "sgd", "lr": 2.0, "max_gradient_norm": 1e-4},
    )
    running = Running.start(spec)
    before = {name: weights(running, name) for name in ("generator", "discriminator")}
    running.step()
    moved = {name: (weights(running, name) - before[name]).norm().item() for name in before}
    assert moved == {"generator": pytest.approx(0.5 * 1e-3, rel=1e-2), "discriminator": pytest.approx(2.0 * 1e-4, rel=1e-2)}


def test_a_gradient_within_its_bound_is_left_alone(make_spec):
    moved = []
    for bound in (None, 1e6):
        sgd = {"name": "sgd", "lr": 0.1, "max_gradient_norm": bound}
        running = Running.start(make_spec(f"bound{bound}", model__name="mlp", optim__generator=sgd, optim__discriminator=sgd))
        running.step()
        moved.append(weights(running, "generator"))
    assert torch.equal(*moved)


def test_the_average_forgets_by_the_images_of_the_whole_step(make_spec):
    """Two updates of D show 64 images a step: a half-life of 64 images goes half of the way. Kills the mutant `batch_images=1` in `train_step`."""
    sgd = {"name": "sgd", "lr": 0.1}
    keys = {"model__name": "mlp", "optim__generator": sgd, "optim__discriminator": sgd, "task__discriminator_repeats": 2}
    running = Running.start(make_spec("averaged", train__ema_halflife_images=64, **keys))
    running.state.images_seen = 128_000  # beyond the ramp
    before = weights(running, "generator")
    running.step()
    averaged = torch.cat([p.flatten().double() for p in running.state.ema.module.parameters()])
    moved = weights(running, "generator") - before
    assert moved.abs().max() > 1e-4
    torch.testing.assert_close(averaged - before, 0.5 * moved, rtol=0, atol=1e-7)


@pytest.mark.parametrize("term", ["feature_matching", "orthogonal"])
def test_terms_alone_can_train_the_generator(make_spec, term):
    spec = make_spec(term, model__name="mlp", task__generator_loss_weight=0.0, task__regularizers={term: {}})
    running = Running.start(spec)
    before = weights(running, "generator")
    running.step()
    assert not torch.equal(weights(running, "generator"), before)
