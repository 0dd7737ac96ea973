"""A whole training step, slow and obvious: the reference that `ganlib.training` is held against.

It is written from the papers and from docs/architecture.md, and shares none of the machinery: no stream, no task, no moment, no wrapper, no moving
average of the library's. What it borrows is what other tests pin by hand: networks (`models.build`), losses, terms and augmentations by their
formula, torch's optimizers. Everything runs in float32, in one process, one shard after the other.

Longer than other files because nothing that a step needs may come from elsewhere; the step itself is the first method.
"""

import copy
import hashlib
import math
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from pydantic import BaseModel

from ganlib import models, rng, transforms
from ganlib.augment import AUGMENTATIONS
from ganlib.losses import LOSSES
from ganlib.models import ImageSpec, Judgement
from ganlib.regularizers import REGULARIZERS

NETWORKS = ("discriminator", "generator")  # in the order of their updates


def keyed(*parts) -> torch.Generator:
    """Random numbers that are a function of (seed, purpose, counters): the first 64 bits of BLAKE2b of them, joined by colons."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class ReferenceTraining:
    """A training that can be stepped.

    Args:
        images, labels: of the train split, [N, C, H, W] uint8 and [N] int64.
        model, task, optim, train: the sections of params.yaml.

    Attributes:
        networks: by name, and the moving average as "ema".
        told: of every call of a network in training, in order: its name and the labels it was told.
        noted: of the last step, the means of each shard and update by name.
    """

    def __init__(self, images, labels, *, model, task, optim, train, step=0, images_seen=0) -> None:
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.model, self.task, self.optim, self.train = model, task, optim, train
        self.step_number, self.images_seen = step, images_seen
        self.told, self.kept = [], {}
        self.loss = LOSSES.get(task.loss)(**self.now(task.loss_options))
        self.terms = {name: REGULARIZERS.get(name)(**self.now(options)) for name, options in task.regularizers.items()}
        self.augmentations = {name: AUGMENTATIONS.get(name)(**self.now(options)) for name, options in task.augment.items()}
        self.levels = int(math.log2(min(images.shape[2:]) / 4))  # doublings of a core of 4 to 7 pixels
        self.level = 0 if task.name == "progressive" else None  # None: no growth
        self.restores = task.name in ("super_resolution", "inpainting")
        self.build()

    # ------------------------------------------------------------------------------------------------ the step

    def step(self) -> None:
        """D's updates, its lazy terms, G's update, its lazy terms; what follows the training; the moving average."""
        self.noted = {}
        self.grow()  # where the task does
        self.follow_schedules()
        halflife = self.now(self.train.ema_halflife_images)
        batch, num_shards = self.train.batch_images, self.train.logical_workers
        for phase, trained, repeat in self.updates():
            network, optimizer = self.networks[trained], self.optimizers[trained]
            parameters = list(network.parameters())
            self.power_iterations()
            parts = []
            for worker in range(num_shards):
                start = self.images_seen + repeat * batch + worker * batch // num_shards
                shard = Shard(self, phase, trained, (self.step_number, repeat, worker), start, batch // num_shards)
                with rng.layer_noise(shard.rng("layers")):
                    values = self.lazy_term(phase, trained, shard) if phase.startswith("penalty ") else self.losses(trained, shard)
                parts.append(torch.autograd.grad(values.sum() / batch, parameters))  # the mean over the whole batch
            gradients = [tree_sum(of_shards).contiguous() for of_shards in zip(*parts, strict=True)]  # fused optimizers walk memory
            bound = getattr(self.optim, trained).max_gradient_norm
            length = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient if bound is None or length < bound else gradient * (bound / (length + 1e-6))
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(trained)
            optimizer.step()
            if phase == "discriminator" and self.task.weight_clip is not None:
                for parameter in parameters:
                    parameter.data.clamp_(-self.task.weight_clip, self.task.weight_clip)
        images = self.task.discriminator_repeats * batch
        self.step_number, self.images_seen = self.step_number + 1, self.images_seen + images
        self.follow(images)
        halflife = min(halflife, 0.05 * self.images_seen)
        beta = 0.5 ** (images / halflife)  # of the images of the whole step
        for average, weight in zip(self.networks["ema"].parameters(), self.networks["generator"].parameters(), strict=True):
            average.data = beta * average.data + (1 - beta) * weight.data
        for average, buffer in zip(self.networks["ema"].buffers(), self.networks["generator"].buffers(), strict=True):
            average.copy_(buffer)

    def updates(self) -> list[tuple[str, str, int]]:
        """(phase, the network it trains, repeat) of this step's updates; a lazy term is an update of its own every k steps."""
        updates = []
        for network in NETWORKS:
            repeats = self.task.discriminator_repeats if network == "discriminator" else 1
            due = [name for name in self.lazy(network) if self.step_number % self.terms[name].interval_steps == 0]
            updates += [(network, network, repeat) for repeat in range(repeats)] + [(f"penalty {name}", network, 0) for name in due]
        return updates

    def losses(self, network: str, shard: "Shard") -> torch.Tensor:
        """[n] what `network` minimises at every step."""
        values = self.discriminator_losses(shard) if network == "discriminator" else self.generator_losses(shard)
        for name, term in self.terms.items():
            if name not in self.lazy(network) and trains(term, network):
                values = values + self.term(name, network, shard)
        return values

    def discriminator_losses(self, shard: "Shard") -> torch.Tensor:
        shard.fake  # noqa: B018 - G draws its noise before D does
        if self.task.history_images:
            shard.fake = self.remembered(shard)
        self.note("logit_real", shard.real_judgement.logits)
        self.note("logit_fake", shard.fake_judgement.logits)
        self.note("sign_real", shard.real_judgement.logits.sign())
        real, fake = patches(shard.real_judgement), patches(shard.fake_judgement)
        if self.task.label_noise:
            is_swapped = torch.rand(shard.count, generator=shard.rng("label noise")) < self.task.label_noise
            real, fake = torch.where(is_swapped[:, None], fake, real), torch.where(is_swapped[:, None], real, fake)
        return self.note("loss_discriminator", self.loss.discriminator(real, fake).mean(1))

    def remembered(self, shard: "Shard") -> torch.Tensor:
        """Images of earlier updates in the place of half of the new ones, once there are enough (arXiv:1703.10593, section 4)."""
        kept, source, shown = self.kept.setdefault(shard.counters[-1], []), shard.rng("history"), []
        is_new = torch.rand(shard.count, generator=source) < 0.5
        places = torch.randint(self.task.history_images, (shard.count,), generator=source)
        for image, as_it_comes, place in zip(shard.fake.detach(), is_new, places, strict=True):
            if len(kept) < self.task.history_images:
                kept.append(image)
                shown.append(image)
            elif as_it_comes:
                shown.append(image)
            else:
                shown.append(kept[place])
                kept[place] = image
        return torch.stack(shown)

    def generator_losses(self, shard: "Shard") -> torch.Tensor:
        if self.task.generator_loss_weight == 0:
            return 0.0 * shard.fake.sum((1, 2, 3))
        fake = patches(shard.fake_judgement)
        real = patches(shard.real_judgement) if self.loss.reads_real else None
        values = self.task.generator_loss_weight * self.note("loss_generator", self.loss.generator(real, fake).mean(1))
        return values + self.distance(shard) if self.restores else values

    def distance(self, shard: "Shard") -> torch.Tensor:
        """[n] from the image, where there is one to be made again (arXiv:1609.04802, eq. 4; arXiv:1809.00219, eq. 3; arXiv:1711.11585, eq. 4)."""
        difference = (shard.fake - shard.real).flatten(1)
        pixels = difference.abs() if self.task.pixel == "l1" else difference**2
        values = self.now(self.task.pixel_weight) * self.note("loss_pixel", pixels.mean(1))
        if self.task.perceptual == "discriminator_features":
            found = (shard.fake_judgement.features - shard.real_judgement.features).abs().mean(1)
            values = values + self.now(self.task.perceptual_weight) * self.note("loss_perceptual", found)
        return values

    def lazy_term(self, phase: str, network: str, shard: "Shard") -> torch.Tensor:
        name = phase.removeprefix("penalty ")
        return self.terms[name].interval_steps * self.term(name, network, shard)  # it stands for k steps

    def term(self, name: str, network: str, shard: "Shard") -> torch.Tensor:
        return self.note(f"penalty_{name}{'_generator' if network == 'generator' else ''}", getattr(self.terms[name], network)(shard))

    # ------------------------------------------------------------------------------------------------ what it needs

    def build(self) -> None:
        """Networks from the seed, and optimizers whose rate and decay rates allow for the lazy updates (arXiv:1912.04958, appendix B)."""
        channels, *size = self.images.shape[1:]
        image = ImageSpec(channels=channels, size=tuple(size), class_counts=tuple(self.labels.bincount().tolist()))
        if self.restores:
            fed = transforms.of(self.task.transform).fed(image)
            roles = {"generator": "translator", "discriminator": "discriminator"}
            generator, discriminator = (
                models.build_network(self.model, image, name, role=role, seed=self.train.seed, fed=fed) for name, role in roles.items()
            )
        else:
            generator, discriminator = models.build(self.model, image, seed=self.train.seed, level=self.level)
        self.networks = {"generator": generator, "discriminator": discriminator, "ema": copy.deepcopy(generator).eval()}
        self.optimizers = {network: self.optimizer(network) for network in NETWORKS}
        for name in NETWORKS:
            self.networks[name].register_forward_pre_hook(
                lambda _, args, name=name: self.told.append((name, args[1] if len(args) > 1 else None))
            )

    def optimizer(self, network: str) -> torch.optim.Optimizer:
        chosen, share = getattr(self.optim, network), self.lazy_share(network)
        options = {key: self.now(value) for key, value in chosen.options.items() if key != "betas"}
        if "momentum" in options:
            options["momentum"] **= share
        parameters = self.networks[network].parameters()
        if chosen.name == "adam":
            return torch.optim.Adam(parameters, betas=[self.now(beta) ** share for beta in chosen.options["betas"]], fused=True, **options)
        if chosen.name == "rmsprop":
            return torch.optim.RMSprop(parameters, alpha=0.99**share, **options)
        assert chosen.name == "sgd"
        return torch.optim.SGD(parameters, **options)

    def lazy(self, network: str) -> list[str]:
        """Names of the terms of `network` that are due every k > 1 steps only."""
        return [name for name, term in self.terms.items() if trains(term, network) and term.interval_steps > 1]

    def lazy_share(self, network: str) -> float:
        """k / (k + 1) where there is a lazy term, else 1."""
        k = min((self.terms[name].interval_steps for name in self.lazy(network)), default=None)
        return 1.0 if k is None else k / (k + 1)

    def learning_rate(self, network: str) -> float:
        rate = self.now(getattr(self.optim, network).lr) * self.lazy_share(network)
        if self.optim.warmup_images:
            rate *= min(1.0, (self.images_seen + 1) / self.optim.warmup_images)
        begin = self.optim.decay_from * self.train.total_images
        done = max(0.0, (self.images_seen - begin) / (self.train.total_images - begin))
        return rate * {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.optim.decay]

    def now(self, value):
        """A number of the settings at the images seen before the step; a schedule is a mapping. Of a mapping of options each of them."""
        value = value.model_dump() if isinstance(value, BaseModel) else value
        if not isinstance(value, dict):
            return value
        if "schedule" not in value:
            return {name: self.now(part) for name, part in value.items()}
        total = self.train.total_images
        begin = value.get("begin_images", value.get("begin_share", 0) * total)
        end = value.get("end_images", value.get("end_share", 1) * total)
        done = min(max((self.images_seen - begin) / (end - begin), 0), 1)
        way = {"constant": 0, "linear": done, "cosine": math.sin(math.pi / 2 * done) ** 2}[value["schedule"]]
        return value["from"] + way * (value.get("to", 0) - value["from"])

    def follow_schedules(self) -> None:
        """What is written as a schedule has the number of this step; what follows the training stays as it is."""

        def at(part, options):
            return replace(part, **{name: self.now(value) for name, value in options.items() if isinstance(value, dict)})

        self.loss = at(self.loss, self.task.loss_options)
        self.terms = {name: at(term, self.task.regularizers[name]) for name, term in self.terms.items()}
        self.augmentations = {name: at(augmentation, self.task.augment[name]) for name, augmentation in self.augmentations.items()}
        for network in NETWORKS:
            options, share = getattr(self.optim, network).options, self.lazy_share(network)
            for group in self.optimizers[network].param_groups:
                if "betas" in options:
                    group["betas"] = tuple(self.now(beta) ** share for beta in options["betas"])
                if "momentum" in options:
                    group["momentum"] = self.now(options["momentum"]) ** share

    @torch.no_grad()
    def power_iterations(self) -> None:
        """Once an update, in every network: v = W^T u, u = W v, both of length 1 (arXiv:1802.05957, algorithm 1)."""
        for layer in (layer for name in NETWORKS for layer in self.networks[name].modules() if hasattr(layer, "u") and hasattr(layer, "v")):
            matrix = layer.weight.movedim(1, -1).flatten(1) if layer.weight.ndim == 4 else layer.weight
            v = matrix.T @ layer.u
            layer.v.copy_(v / v.norm())
            u = matrix @ layer.v
            layer.u.copy_(u / u.norm())

    def note(self, name: str, values: torch.Tensor) -> torch.Tensor:
        self.noted.setdefault(name, []).append(values.detach().double().mean().item())
        return values

    def means(self) -> dict[str, float]:
        """Of the last step, over its updates and shards."""
        return {name: sum(values) / len(values) for name, values in self.noted.items()}

    def follow(self, images: int) -> None:
        """Numbers that follow the training move with the step's means."""

        def moved(part):
            watches = getattr(part, "watches", None)
            return part if watches is None or any(name not in self.noted for name in watches) else part.adapt(self.means(), images)

        self.loss = moved(self.loss)
        self.terms = {name: moved(term) for name, term in self.terms.items()}
        self.augmentations = {name: moved(augmentation) for name, augmentation in self.augmentations.items()}

    # ------------------------------------------------------------------------------------------------ growth (arXiv:1710.10196)

    def grow(self) -> None:
        """The next level where it is time: weights are inherited by name, optimizers are new. Then how far the level is faded in."""
        if self.level is None:
            return
        stable, fade = self.task.options.stable_images, self.task.options.fade_images
        starts = [0] + [stable + k * (fade + stable) for k in range(self.levels)]
        if self.level < self.levels and self.images_seen >= starts[self.level + 1]:
            self.level += 1
            before = self.networks
            self.build()
            for name in NETWORKS:
                self.networks[name].load_state_dict(before[name].state_dict(), strict=False)
            self.networks["ema"].load_state_dict(self.networks["generator"].state_dict())
            self.networks["ema"].load_state_dict(before["ema"].state_dict(), strict=False)
        self.alpha = min(1.0, (self.images_seen - starts[self.level]) / fade) if self.level else 1.0
        if self.level:
            for name in NETWORKS:
                self.networks[name].alpha.fill_(self.alpha)

    def shown(self, images: torch.Tensor) -> torch.Tensor:
        """Real images at the size of the level, mixed with the size before while it is faded in."""
        if self.level is None:
            return images
        images = F.avg_pool2d(images, 2 ** (self.levels - self.level))
        blurred = F.avg_pool2d(images, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.alpha * images + (1 - self.alpha) * blurred


def patches(judgement: Judgement) -> torch.Tensor:
    """[n, P] verdicts on the patches of each image; one where it is judged as a whole."""
    return judgement.logits[:, None] if judgement.patch_logits is None else judgement.patch_logits


def left_of(images: torch.Tensor, transform, source: torch.Generator) -> torch.Tensor:
    """What a generator is fed of images [n, C, H, W]: a mean of 8-bit levels, halves up; or known pixels, zeros, and where the hole is."""
    if transform.name == "low_resolution":
        levels = ((images + 1) * 127.5).round()
        return (F.avg_pool2d(levels.double(), transform.factor) + 0.5).floor().float() / 127.5 - 1
    masks = [transforms.of(transform).mask(tuple(images.shape[2:]), source) for _ in images]
    holes = torch.stack([torch.from_numpy(mask.copy()).float() for mask in masks])[:, None]
    return torch.cat([images * (1 - holes), holes], 1)


def tree_sum(parts) -> torch.Tensor:
    """The sum of a power of two of tensors, halves first."""
    half = len(parts) // 2
    return tree_sum(parts[:half]) + tree_sum(parts[half:]) if half else parts[0]


def trains(term, network: str) -> bool:
    """Whether a term is for `network`, and has a weight there."""
    return hasattr(term, network) and getattr(term, f"{network}_weight", 1) != 0


class Shard:
    """What terms are handed: real and generated images of one shard and D's verdicts, each made when it is first asked for."""

    def __init__(self, training: ReferenceTraining, phase: str, trained: str, counters: tuple, start: int, count: int) -> None:
        self.training, self.phase, self.trained, self.counters, self.count = training, phase, trained, counters, count
        self.num_judged = 0
        size = len(training.images)
        self.rows = torch.tensor(
            [
                torch.randperm(size, generator=keyed(training.train.seed, "order", position // size))[position % size]
                for position in range(start, start + count)
            ]
        )
        self.z, self.fake_labels = (
            (left_of(self.real, training.task.transform, self.rng("transform")), None) if training.restores else self.inputs("latents")
        )
        self.labels = training.labels[self.rows] if training.model.conditional else None

    def rng(self, purpose: str) -> torch.Generator:
        return keyed(self.training.train.seed, f"{self.phase}/{purpose}", *self.counters)

    def note(self, name: str, values: torch.Tensor) -> None:
        self.training.note(name, values)

    def network(self, name: str):
        return self.training.networks[name]

    def inputs(self, purpose: str):
        """Latents, and classes as often as the data have them: that of an image drawn from the data sorted by class."""
        source, model = self.rng(purpose), self.training.model
        draw = {"normal": torch.randn, "uniform": torch.rand}[model.latent_distribution]
        z = draw(self.count, model.latent_dim, generator=source)
        z = 2 * z - 1 if model.latent_distribution == "uniform" else z
        sorted_labels = self.training.labels.sort().values
        return z, sorted_labels[torch.randint(len(sorted_labels), (self.count,), generator=source)] if model.conditional else None

    @cached_property
    def real(self) -> torch.Tensor:
        images = self.training.images[self.rows].float() / 127.5 - 1
        for name, options in self.training.train.augment.items():
            images = AUGMENTATIONS.get(name)(**options)(images, self.rng("augment"))
        return self.training.shown(images)

    @cached_property
    def fake(self) -> torch.Tensor:
        with torch.set_grad_enabled(self.trained == "generator"):
            return self.network("generator")(self.z, self.fake_labels)

    @cached_property
    def real_judgement(self) -> Judgement:
        self.real_call = self.num_judged
        with torch.set_grad_enabled(self.trained == "discriminator"):
            return self.judge(self.real, self.labels)

    @cached_property
    def fake_judgement(self) -> Judgement:
        self.fake_call = self.num_judged
        return self.judge(self.fake, self.fake_labels)

    def change(self, of: str, step: torch.Tensor) -> torch.Tensor:
        """D at moved images, augmented as the ones in place were, against D there."""
        images, labels = (self.real, self.labels) if of == "real" else (self.fake, self.fake_labels)
        before = getattr(self, f"{of}_judgement").logits
        later, self.num_judged = self.num_judged, getattr(self, f"{of}_call")
        after = self.judge(images + step, labels).logits
        self.num_judged = later
        return after - before

    def judge(self, images: torch.Tensor, labels) -> Judgement:
        """D at images, augmented by draws of this call alone; divided by |gradient| + |logit| where that is asked for (arXiv:2109.02235)."""
        is_normalized = self.training.task.gradient_normalization
        if is_normalized and not images.requires_grad:
            images = images.detach().requires_grad_(True)
        with torch.set_grad_enabled(is_normalized or torch.is_grad_enabled()):
            seen = images
            for index, augmentation in enumerate(self.training.augmentations.values()):
                seen = augmentation(seen, self.rng(f"augment {index} of call {self.num_judged}"))
            self.num_judged += 1
            judgement = self.network("discriminator")(seen, labels, full=True)
            if not is_normalized:
                return judgement
            (gradient,) = torch.autograd.grad(judgement.logits.sum(), images, create_graph=True)
            norm = torch.sqrt(gradient.square().sum((1, 2, 3)) + 1e-12)
            return Judgement(judgement.logits / (norm + judgement.logits.abs()), judgement.features, judgement.class_logits)

    def critic(self, labels):
        return lambda images: self.judge(images, labels).logits

    def synthesise(self, count: int):
        z, labels = self.inputs("styles")
        return self.network("generator")(z[:count], None if labels is None else labels[:count], full=True)
