"""`train.continue_from` and `train.start_from` as far as settings tell: what may change while a training goes on, what cannot be meant."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ganlib import tasks
from ganlib.config import options
from ganlib.models import ImageSpec, options_of
from ganlib.models.settings import ModelConfig
from ganlib.optim import OptimConfig, OptimizerConfig
from ganlib.train_settings import TrainConfig, is_key
from ganlib.training.state import Bundle
from pipeline.identity import TrainingParams, training_settings
from pipeline.tracking import versions

REGISTRY = "models:/"
OURS = "models"  # what the train stage writes, so DVC empties it first

# key -> why a training cannot go on under another value; every key that a result depends on stands here or below, * for a network or a task's key
FIXED = {
    "model": "the networks would be others",
    "task.name": "another task has other networks",
    "optim.*.name": "what one optimizer has learnt means nothing to another",
    "train.logical_workers": "a shard has its own statistics and sums",
    "train.precision": "the networks would compute something else",
    "train.freeze": "an optimizer knows its parameters by their place among those that are not frozen",
}
MAY_CHANGE = frozenset(
    {
        "task.*",  # as far as the task itself allows (`Task.check_continued`)
        "optim.*.lr",
        "optim.*.options",
        "optim.*.max_gradient_norm",
        "optim.warmup_images",
        "optim.decay",
        "optim.decay_from",
        "train.seed",
        "train.total_images",  # above what the parent has seen
        "train.batch_images",
        "train.channels_last",
        "train.ema_halflife_images",
        "train.augment",
        "train.log_interval_images",
        "train.history_interval_images",
        "train.grid_interval_images",
        "train.health_interval_images",
        "train.alarms",
        "train.on_divergence",
        "train.max_rollbacks",
        "train.rollback_lr_factor",
        "train.select",
        "train.stop",
    }
)


def check_start(train: TrainConfig) -> None:
    """Raise ValueError for a `train.start_from` that cannot be meant; whether it is there is seen when the training begins."""
    asked = train.start_from
    if asked is None:
        return
    if asked.startswith(REGISTRY):
        versions.check(asked)
    elif not is_key(asked) and Path(asked).resolve() == Path(OURS).resolve():
        raise ValueError(
            f"train.start_from={asked!r} is what the train stage writes: DVC empties it before the stage runs; copy it to another folder, or "
            "name its training (run_key in models/generator.json)"
        )


def check(config: TrainingParams, image: ImageSpec, *, before: Mapping[str, Any], data: tuple[str, str], bundle: Bundle) -> None:
    """Raise ValueError, a line each for whatever keeps the training of `bundle` from going on under `config`.

    Args:
        before: the settings it was trained with, as `training_settings` has them; of an older version they may lack keys.
        data: digest of its data, and of the data now.
    """
    problems = [f"{key}: {old!r} -> {new!r} ({FIXED[entry]})" for entry, key, old, new in _changed(before, training_settings(config))]
    if data[0] != data[1]:
        problems.append(f"data: sha256 {data[0][:12]} -> {data[1][:12]} (the order of images and the classes are those of the data)")
    if not problems:  # else they follow from the settings
        problems += _shapes(config, image, bundle)
        try:
            then = _task(before), _section(TrainConfig, before["train"])
            tasks.of(config.task).check_continued(config.model, image, then, (config.task, config.train))
        except ValueError as error:
            problems.append(str(error))
    if config.train.total_images <= bundle.images_seen:
        problems.append(
            f"train.total_images: {before['train']['total_images']:,} -> {config.train.total_images:,} "
            f"(it has seen {bundle.images_seen:,} images already; set it above that)"
        )
    if problems:
        asked = config.train.continue_from
        raise ValueError(
            f"train.continue_from={asked} cannot go on under these settings:\n  "
            + "\n  ".join(problems)
            + f"\nset them back, or start a new training from its weights: train.continue_from: null, train.start_from: {asked}"
        )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """(entry of FIXED, key, old, new) of every fixed setting that is not what it was."""
    for entry in FIXED:
        for place in _places(entry, after):
            old, new = _value(before, place), _value(after, place)
            if entry == "model":
                old, new = _spelled_out(old, before), _spelled_out(new, after)
            for key in _leaves(old, new, place):
                yield entry, key[0], key[1], key[2]


def _places(entry: str, settings: Mapping[str, Any]) -> list[str]:
    """The keys that an entry stands for: one for each network where it has a *."""
    section, star, rest = entry.partition(".*.")
    networks = [name for name in settings[section] if name not in OptimConfig.model_fields] if star else []
    return [f"{section}.{name}.{rest}" for name in networks] if star else [entry]


def _leaves(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in (*old, *(name for name in new if name not in old)):
            yield from _leaves(old.get(name), new.get(name), f"{key}.{name}")
    elif old != new:
        yield key, old, new


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; its default where the settings do not have it."""
    value: Any = settings
    schema: Any = TrainingParams
    for part in key.split("."):
        field = schema.model_fields.get(part)
        if part not in value:
            return None if field is None else field.get_default(call_default_factory=True)
        value, schema = value[part], OptimizerConfig if field is None else field.annotation
    return value


def _spelled_out(model: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A `model` section with the options that it leaves at their defaults."""
    try:
        chosen, task = _section(ModelConfig, model), _task(settings)
        spelled = {
            network: options(options_of(chosen, role), chosen[network], key=f"model.{network}").model_dump(mode="json")
            for network, role in tasks.of(task).networks(task).items()
        }
    except ValueError:  # of another version of this project
        return dict(model)
    named: dict[str, Any] = chosen.model_dump(mode="json")
    return named | spelled


def _section(schema: type[Any], values: Mapping[str, Any]) -> Any:
    """A section of another version of this project: keys that are not known any more are left out, new ones have their default."""
    assert issubclass(schema, BaseModel)
    takes_all = schema.model_config.get("extra") == "allow"
    return schema.model_validate({key: value for key, value in values.items() if takes_all or key in schema.model_fields})


def _task(settings: Mapping[str, Any]) -> Any:
    return _section(tasks.options_of(settings["task"]), settings["task"])


def _shapes(config: TrainingParams, image: ImageSpec, bundle: Bundle) -> Iterator[str]:
    """A line for each tensor of the networks that the bundle has not, or in another shape: its code was another."""
    networks = tasks.of(config.task).meta_networks(config.model, config.task, image, stage=bundle.numbers["stage"])
    for network, module in networks.items():
        theirs = {
            name.removeprefix(f"{network}."): list(value.shape) for name, value in bundle.tensors.items() if name.startswith(f"{network}.")
        }
        ours = {name: list(value.shape) for name, value in module.state_dict().items()}
        for name in (*theirs, *(name for name in ours if name not in theirs)):
            if theirs.get(name) != ours.get(name):
                yield f"{network}.{name}: {theirs.get(name, 'none')} -> {ours.get(name, 'none')} (its networks were built by other code)"
