import pytest
import torch

from ganlib import optim
from ganlib.optim import OptimConfig, OptimizerConfig


def config(**keys):
    one = OptimizerConfig(name="adam", lr=0.1)
    return OptimConfig(generator=one, discriminator=one, **keys)


@pytest.mark.parametrize("entry", list(optim.OPTIMIZERS), ids=lambda entry: entry.name)
def test_each_optimizer_descends_a_quadratic(entry):
    x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = optim.build(OptimizerConfig(name=entry.name, lr=0.05), [x])
    for _ in range(300):
        optimizer.zero_grad()
        x.square().sum().backward()
        optimizer.step()
    assert x.detach().abs().max() < 0.1


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_lazy_correction_by_hand(name):
    # k = 16: factor 16/17 on lr, exponent 16/17 on each beta
    optimizer = optim.build(
        OptimizerConfig(name=name, lr=1e-3, options={"betas": [0.5, 0.99]}), [torch.nn.Parameter(torch.ones(1))], lazy_interval=16
    )
    group = optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(1e-3 * 16 / 17)
    assert group["betas"] == pytest.approx((0.5 ** (16 / 17), 0.99 ** (16 / 17)))


def test_adamw_decays_the_weight_and_adam_its_gradient():
    def after_one_step(name):
        x = torch.nn.Parameter(torch.tensor([4.0]))
        optimizer = optim.build(OptimizerConfig(name=name, lr=0.1, options={"weight_decay": 0.5}), [x])
        x.grad = torch.zeros(1)
        optimizer.step()
        return x.item()

    assert after_one_step("adamw") == pytest.approx(4 - 0.1 * 0.5 * 4)
    assert after_one_step("adam") == pytest.approx(4 - 0.1)  # the decay is all the gradient there is, and Adam makes a step of lr of it


def test_schedule_by_hand():
    def factor(images, **keys):
        return optim.lr_factor(config(**keys), images_seen=images, total_images=1000)

    assert factor(999) == 1
    assert [factor(i, decay="linear") for i in (0, 250, 1000)] == pytest.approx([1, 0.75, 0])
    assert [factor(i, decay="linear", decay_from=0.5) for i in (0, 500, 750)] == pytest.approx([1, 1, 0.5])
    assert [factor(i, decay="cosine") for i in (0, 500, 1000)] == pytest.approx([1, 0.5, 0], abs=1e-9)
    assert factor(49, warmup_images=100) == pytest.approx(0.5)


def test_bad_names_and_options_are_named():
    with pytest.raises(ValueError, match=r"optim.generator.name='adamm' is not a known optimizer \(did you mean 'adam'\?\)"):
        optim.check(OptimConfig(generator=OptimizerConfig(name="adamm", lr=1), discriminator=OptimizerConfig(name="sgd", lr=1)))
    with pytest.raises(ValueError, match=r"optim.discriminator.options.beta=0.5 is not a known key"):
        optim.check(
            OptimConfig(
                generator=OptimizerConfig(name="sgd", lr=1), discriminator=OptimizerConfig(name="adam", lr=1, options={"beta": 0.5})
            )
        )
    for name in ("adam", "adamw"):
        with pytest.raises(ValueError, match="betas"):
            optim.build(OptimizerConfig(name=name, lr=1, options={"betas": [0.5, 1.0]}), [torch.nn.Parameter(torch.ones(1))])
