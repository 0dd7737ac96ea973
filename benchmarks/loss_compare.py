"""The judge of a rebuilding: two commits train the same recipes and seed, and every number is compared bit for bit.

A commit is laid out in a temporary folder and trains there with its own code, its own recipes over its own params.yaml and its own preparation of
scikit-learn's digits: one process, one thread, every step logged. Compared are the logged scalars of every step, then what they are blind to: the
sha256 of every tensor of the final bundle (networks, moving average, optimizers), its numbers, and the last sample grid. The judge reads these
files itself, so that no code under judgement can hide a difference.

    python benchmarks/loss_compare.py HEAD~1 --all-recipes             # against the working tree; minutes the first time
    python benchmarks/loss_compare.py main HEAD --recipes wgan_gp,stylegan2 --seed 1
    python benchmarks/loss_compare.py 76dfaab --recipe my.yaml         # the same file over both

Prints `equal` or the first difference (step, name, both numbers in hex and decimal), one line a recipe, and exits with 1 where anything differs.
What a commit came to is kept in ~/.cache/ganpipe/loss-compare, so that ten commits compared with one train that one once.

Past 300 lines because what it must not import is here a second time: reading bundles, and writing settings for commits older than this file.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKTREE = "WORKTREE"
PARAMS = "params.yaml"  # the name of params.yaml as it stands among the recipes
CACHE_FORMAT = 2  # raise it when other numbers are trained or recorded than before
CLOCK = frozenset({"time", "images_per_second", "memory_bytes"})  # of a line of the health
STEPS, STEPS_OF_MANY = 100, 18  # the lazy terms of stylegan2 are due every 16 steps: once at the start, once more, and a step that feels it
IMAGE_SIZE = (16, 16)  # two doublings: growth, resampling and attention all take part

# What --write-specs does, for commits whose own loss_compare.py has none: their functions, found by the names they had then.
WRITE_SPECS = """
import inspect, json, sys, traceback
from pathlib import Path
from ruamel.yaml import YAML
from ganlib.config import DataConfig
from ganlib.training.loop import TrainingSpec
from pipeline import params, recipe
from pipeline.stages.fetch import fetch
from pipeline.stages.prepare import prepare

folder, steps, seed, size, *recipes = Path(sys.argv[1]), *map(int, sys.argv[2:5]), *sys.argv[5:]
lay = getattr(recipe, "lay", recipe.overlay)
config = DataConfig(source="digits", image_size=(size, size))
fetch(config, folder)
prepare(config, folder, **({"processes": 1} if "processes" in inspect.signature(prepare).parameters else {}))
for path in map(Path, recipes):
    target = folder / f"{path.stem}.json"
    try:
        read = YAML(typ="safe", pure=True).load
        values = read(Path("params.yaml").read_text())
        if path.name != "params.yaml":
            lay(values, read(path.read_text()))
        recipe.overlay(values, {"data": {"source": "digits", "image_size": [size, size]}})
        train = values["train"]
        images = steps * train["batch_images"] * values["task"].get("discriminator_repeats", 1)
        sizes = {"seed": seed, "total_images": images, "ema_halflife_images": 20, "log_interval_images": 1, "history_interval_images": 1,
                 "grid_interval_images": 10**12, "checkpoint_interval_images": images // 2}
        train.update({key: value for key, value in sizes.items() if key in train})
        config = params.parse(values)
        spec = TrainingSpec(data=str(folder / "data" / "prepared" / "train.arrow"), folder=str(folder / path.stem),
                            model=config.model, task=config.task, optim=config.optim, train=config.train, threads=1)
        target.write_text(spec.model_dump_json())
    except Exception:
        target.with_suffix(".error").write_text(traceback.format_exc())
"""

# One process trains all; a recipe that fails leaves its words and does not stop the others.
TRAIN = """
import runpy, sys, time, traceback
from pathlib import Path
import ganlib
tree, *specs = sys.argv[1:]
assert Path(ganlib.__file__).is_relative_to(tree), f"ganlib comes from {ganlib.__file__}, expected it below {tree}"
for spec in map(Path, specs):
    sys.argv, start = ["ganlib.training", str(spec)], time.monotonic()
    try:
        runpy.run_module("ganlib.training", run_name="__main__")
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit) or error.code:
            spec.with_suffix(".error").write_text(traceback.format_exc())
    spec.with_suffix(".seconds").write_text(str(time.monotonic() - start))
"""


def write_specs(folder: Path, recipes: Iterable[Path], *, steps: int, seed: int) -> None:
    """Prepare the digits below `folder` and write NAME.json, a TrainingSpec of each recipe, or NAME.error; all with the code of this tree.

    This is the one place that says how a commit is told its settings: whoever moves these functions or renames these keys changes it here.
    """
    import traceback

    from ganlib.data.settings import DataConfig
    from ganlib.training.loop import TrainingSpec
    from pipeline import edit, preflight
    from pipeline.stages.fetch import fetch
    from pipeline.stages.prepare import prepare

    data = DataConfig(source="digits", image_size=IMAGE_SIZE)
    fetch(data, folder)
    prepare(data, folder, processes=1)
    for path in recipes:
        target = folder / f"{path.stem}.json"
        try:
            values = edit.plain(ROOT / PARAMS)
            if path.name != PARAMS:
                edit.lay(values, edit.plain(path))
            images = steps * values["train"]["batch_images"] * values["task"].get("discriminator_repeats", 1)
            train = {
                "seed": seed,
                "total_images": images,
                "ema_halflife_images": 20,  # short enough to follow the ramp of the first steps within the training
                "history_interval_images": 1,  # every step
                "health_interval_images": max(1, images // 4),  # measurements move nothing
                "grid_interval_images": 10**12,  # at the end
                "checkpoint_interval_images": images // 2,
            }
            edit.overlay(values, {"data": {"source": "digits", "image_size": list(IMAGE_SIZE)}, "train": train})
            config = preflight.parse(values)
            spec = TrainingSpec(
                data=str(folder / "data" / "prepared" / "train.arrow"),
                held_out=str(folder / "data" / "prepared" / "val.arrow"),
                folder=str(folder / path.stem),
                model=config.model,
                task=config.task,
                optim=config.optim,
                train=config.train,
                threads=1,
            )
            target.write_text(spec.model_dump_json())
        except Exception:
            target.with_suffix(".error").write_text(traceback.format_exc())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a commit came to with one recipe.

    Attributes:
        error: its own words, where it failed; the rest is then empty.
        tensors: name -> sha256, of the final bundle.
        picture: sha256 of the last sample grid.
        numbers: state.json of the bundle.
    """

    error: str = ""
    settings: dict[str, Any]
    history: list[dict[str, Any]]
    tensors: dict[str, str]
    picture: str
    numbers: dict[str, Any]
    wall_seconds: float


def hash_tensors(path: Path) -> dict[str, str]:
    """sha256 of each tensor of a bundle, over its type, shape and bytes."""
    import safetensors

    def hashed(tensor: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps([str(tensor["dtype"]), list(tensor["shape"])]).encode() + bytes(tensor["data"])).hexdigest()

    return {name: hashed(tensor) for name, tensor in sorted(safetensors.deserialize(path.read_bytes()))}


def part_of(tensor: str) -> str:
    """The part of a training that a tensor belongs to: a network, `ema`, `optimizer.generator`."""
    return ".".join(tensor.split(".")[: 2 if tensor.startswith("optimizer") else 1])


def hash_pixels(path: Path) -> str:
    """sha256 of a picture's pixels, whatever their compression."""
    from PIL import Image

    with Image.open(path) as image:
        return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def read_outcome(folder: Path, name: str) -> Outcome:
    """What the training of recipe `name` left below `folder`."""

    def text(suffix: str) -> str:
        path = folder / f"{name}.{suffix}"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def failed(words: str) -> Outcome:
        return Outcome(error=words, settings={}, history=[], tensors={}, picture="", numbers={}, wall_seconds=0.0)

    state = folder / name
    bundles = sorted(state.rglob("tensors.safetensors"))
    if error := text("error"):
        return failed(error.strip())
    if not bundles or not (state / "history.jsonl").exists():
        return failed("no final bundle and history were written")
    pictures = sorted(state.rglob("*.png"))
    return Outcome(
        settings={key: value for key, value in json.loads(text("json")).items() if key not in ("data", "folder")},
        history=[json.loads(line) for line in (state / "history.jsonl").read_text(encoding="utf-8").splitlines()],
        tensors=hash_tensors(bundles[-1]),
        picture=hash_pixels(pictures[-1]) if pictures else "",
        numbers=json.loads((bundles[-1].parent / "state.json").read_text(encoding="utf-8")),
        wall_seconds=float(text("seconds") or 0.0),
    )


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def resolve(commit: str) -> str:
    """The hash of a commit; a working tree with nothing to commit is its commit, another stays WORKTREE.

    Raises:
        ValueError: no such commit.
    """
    if commit == WORKTREE:
        return WORKTREE if git("status", "--porcelain").strip() else git("rev-parse", "HEAD").strip()
    try:
        return git("rev-parse", "--verify", "-q", f"{commit}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        raise ValueError(f"{commit!r} is no commit of this project; give a hash, a branch, HEAD~1 or {WORKTREE}") from None


def lay_out(commit: str, folder: Path) -> None:
    """The files of `commit` in `folder`; of the working tree a copy, so that it may be edited meanwhile."""
    folder.mkdir(parents=True)
    if commit == WORKTREE:
        for name in filter(None, git("ls-files", "-z", "-co", "--exclude-standard").split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((ROOT / name).read_bytes())
        return
    archive = folder.with_suffix(".tar")
    git("archive", "-o", str(archive), commit)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)


def recipe_names(commit: str) -> list[str]:
    """Every recipe of a commit, params.yaml as it stands first."""
    if commit == WORKTREE:
        found = [path.name for path in (ROOT / "recipes").glob("*.yaml")]
    else:
        found = git("ls-tree", "--name-only", commit, "recipes/").splitlines()
    return [Path(PARAMS).stem, *sorted(Path(name).stem for name in found if name.endswith(".yaml"))]


def machine() -> str:
    """What beside the code decides about the last bit."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [platform.processor()]
    cpu = {line for line in lines if line.split("\t")[0].strip() in ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")}
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "pillow", "scikit-learn")]
    return "\n".join([*versions, platform.python_version(), *sorted(cpu or lines)])


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganpipe" / "loss-compare"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How every commit is tried.

    Args:
        extra: a recipe of neither commit, laid over both.
    """

    steps: int
    seed: int
    extra: Path | None = None
    use_cache: bool = True

    def outcomes(self, commit: str, names: Sequence[str], scratch: Path) -> dict[str, Outcome]:
        """What `commit` comes to with each recipe, from the cache where it is there; failures are tried again.

        Raises:
            ValueError: its code cannot prepare the data; with its own words.
        """
        found = {name: outcome for name in names if (outcome := self._cached(commit, name)) is not None}
        missing = [name for name in names if name not in found]
        if missing:
            trained = self._train(commit, missing, scratch)
            for name, outcome in trained.items():
                self._keep(commit, name, outcome)
            found |= trained
        return found

    def _train(self, commit: str, names: Sequence[str], scratch: Path) -> dict[str, Outcome]:
        tree, state = scratch / "tree", scratch / "state"
        lay_out(commit, tree)
        state.mkdir()
        environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        environment |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

        def run(*command: str | Path) -> str:
            done = subprocess.run([sys.executable, *map(str, command)], cwd=tree, env=environment, capture_output=True, text=True)
            return f"the code of {commit} ended with {done.returncode}:\n{done.stderr[-2000:]}" if done.returncode else ""

        paths = [self._recipe(tree, name) for name in names]
        own = tree / "benchmarks" / "loss_compare.py"
        if own.exists() and '"--write-specs"' in own.read_text(encoding="utf-8"):
            problem = run(own, "--write-specs", state, "--steps", str(self.steps), "--seed", str(self.seed), "--files", *paths)
        else:
            problem = run("-c", WRITE_SPECS, state, str(self.steps), str(self.seed), str(IMAGE_SIZE[0]), *paths)
        if problem:
            raise ValueError(problem)
        specs = [path for name in names if (path := state / f"{name}.json").exists()]
        if specs and (problem := run("-c", TRAIN, tree, *specs)):  # a process that dies takes along what it had not finished
            for path in specs:
                if not path.with_suffix(".seconds").exists():
                    path.with_suffix(".error").write_text(problem)
        return {name: read_outcome(state, name) for name in names}

    def _recipe(self, tree: Path, name: str) -> Path:
        if self.extra is not None and name == self.extra.stem:
            return self.extra.resolve()
        return tree / PARAMS if name == Path(PARAMS).stem else tree / "recipes" / f"{name}.yaml"

    def _entry(self, commit: str, name: str) -> Path:
        facts = [CACHE_FORMAT, machine(), self.steps, self.seed, self.extra.read_text() if self.extra is not None else ""]
        return cache_folder() / commit / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16] / f"{name}.json"

    def _cached(self, commit: str, name: str) -> Outcome | None:
        if commit == WORKTREE or not self.use_cache:
            return None
        try:
            return Outcome(**json.loads(self._entry(commit, name).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _keep(self, commit: str, name: str, outcome: Outcome) -> None:
        if commit == WORKTREE or not self.use_cache or outcome.error:
            return
        entry = self._entry(commit, name)
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = entry.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(outcome)))
        temporary.replace(entry)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def first_difference(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> str | None:
    """Where two histories part, in words; the clock does not count."""
    for a, b in zip(one, two, strict=False):
        for key in ("step", "images_seen"):
            if a[key] != b[key]:
                return f"step {a['step']}: {key} is {a[key]} and {b[key]}"
        for name in sorted(a["scalars"].keys() | b["scalars"].keys()):
            x, y = a["scalars"].get(name), b["scalars"].get(name)
            if x is None or y is None:
                return f"step {a['step']}: only {'A' if y is None else 'B'} has {name}"
            if float(x).hex() != float(y).hex():
                return f"step {a['step']}: {name} is {float(x).hex()} and {float(y).hex()} ({x!r} and {y!r})"
    if len(one) != len(two):
        return f"A has {len(one)} log lines, B has {len(two)}"
    return None


def difference(a: Outcome, b: Outcome) -> str | None:
    """The first difference between two outcomes, in words: scalars, then tensors, then the grid, then numbers of the bundle that both have."""
    if a.error or b.error:
        said = [f"{name} failed: {outcome.error.splitlines()[-1]}" for name, outcome in (("A", a), ("B", b)) if outcome.error]
        return "; ".join(said)
    if (scalars := first_difference(a.history, b.history)) is not None:
        return scalars
    if names := sorted(name for name in a.tensors.keys() | b.tensors.keys() if a.tensors.get(name) != b.tensors.get(name)):
        parts = sorted({part_of(name) for name in names})
        verb, tensors = "differs" if len(parts) == 1 else "differ", "tensor" if len(names) == 1 else "tensors"
        owners = [side for side, outcome in (("A", a), ("B", b)) if names[0] in outcome.tensors]
        alone = f", which only {owners[0]} has" if len(owners) == 1 else ""
        where = f"{len(names)} {tensors}, the first {names[0]}{alone}"
        return f"{', '.join(parts)} {verb}: {where} (the scalars of all {len(a.history)} steps are equal)"
    if a.picture != b.picture:
        return "the last sample grid differs (scalars and tensors are equal)"
    for key in sorted(a.numbers.keys() & b.numbers.keys() - {"format"}):
        one, two = without_clock(a.numbers[key]), without_clock(b.numbers[key])
        if json.dumps(one, sort_keys=True) != json.dumps(two, sort_keys=True):
            return f"state.json: {key} is {one!r} and {two!r}"
    return None


def without_clock(value: Any) -> Any:
    """Lines of a bundle without what the machine decides: when they were measured, how fast, in how much memory."""
    if isinstance(value, list):
        return [without_clock(each) for each in value]
    return {name: each for name, each in value.items() if name not in CLOCK} if isinstance(value, dict) else value


def settings_that_differ(one: dict[str, Outcome], two: dict[str, Outcome]) -> list[str]:
    """Settings that both commits know and do not agree on: the likely cause, and no difference by itself."""
    notes: dict[str, list[str]] = {}
    for name in one.keys() & two.keys():
        a, b = flat(one[name].settings), flat(two[name].settings)
        for key in sorted(a.keys() & b.keys()):
            if a[key] != b[key]:
                notes.setdefault(f"{key} is {a[key]!r} in A and {b[key]!r} in B", []).append(name)
    return [f"note: {note} ({', '.join(sorted(names))})" for note, names in notes.items()]


def failures(side: str, outcomes: dict[str, Outcome]) -> list[str]:
    return [f"{side} failed with {name}:\n{outcome.error[-2000:]}" for name, outcome in outcomes.items() if outcome.error]


def compare(a: str, b: str, trial: Trial, recipes: Sequence[str] | None) -> bool:
    """Print a line a recipe and a count; True where all is equal. Notes go to stderr.

    Args:
        recipes: None: params.yaml and every recipe of both commits.

    Raises:
        ValueError: an unknown commit or recipe, or a commit that cannot be tried at all.
    """
    commits = {"A": resolve(a), "B": resolve(b)}
    have = {side: recipe_names(commit) + ([trial.extra.stem] if trial.extra is not None else []) for side, commit in commits.items()}
    everything = list(dict.fromkeys([*have["A"], *have["B"]]))
    wanted = everything if recipes is None else recipes
    if unknown := [name for name in wanted if name not in everything]:
        raise ValueError(f"no recipe {', '.join(unknown)} in either commit; there are {', '.join(everything)}")
    both = [name for name in wanted if name in have["A"] and name in have["B"]]

    def outcomes(side: str) -> dict[str, Outcome]:
        start = time.monotonic()
        found = trial.outcomes(commits[side], both, folder / side)
        trained = sum(outcome.wall_seconds for outcome in found.values())
        seconds = time.monotonic() - start
        print(f"{side} {commits[side][:12]}: {len(found)} trainings of {trained:.0f} s, had in {seconds:.0f} s", file=sys.stderr)
        return found

    with tempfile.TemporaryDirectory(prefix="loss-compare-") as scratch, ThreadPoolExecutor(2) as pool:
        folder = Path(scratch)
        one, two = pool.map(outcomes, "AB")
    for note in [*settings_that_differ(one, two), *failures("A", one), *failures("B", two)]:
        print(note, file=sys.stderr)
    verdicts = {name: difference(one[name], two[name]) for name in both}
    width = max(map(len, wanted))
    for name in wanted:
        alone = f"only {'A' if name in have['A'] else 'B'} has this recipe"
        print(f"{name:{width}}  {(verdicts[name] or 'equal') if name in both else alone}")
    num_equal = sum(verdict is None for verdict in verdicts.values())
    print(f"{num_equal} of {len(wanted)} equal: {a} and {b}, {trial.steps} steps each, seed {trial.seed}")
    return num_equal == len(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", nargs="?", help="a commit")
    parser.add_argument("b", metavar="B", nargs="?", default=WORKTREE, help="a commit; by default the working tree as it stands")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all-recipes", action="store_true", help="params.yaml as it stands and every recipe of each commit")
    which.add_argument("--recipes", type=lambda text: text.split(","), help="names, with commas; each commit's own")
    which.add_argument("--recipe", type=Path, help="one file, laid over both; none of these three: params.yaml as it stands")
    parser.add_argument("--steps", type=int, help=f"of each training; {STEPS}, of several recipes {STEPS_OF_MANY}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-cache", action="store_true", help="train every commit anew, and keep nothing")
    parser.add_argument("--write-specs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps or (STEPS_OF_MANY if args.all_recipes or args.recipes else STEPS)
    if args.write_specs is not None:
        sys.path.insert(0, str(ROOT))
        write_specs(args.write_specs, args.files, steps=steps, seed=args.seed)
        return
    if args.a is None:
        parser.error("give a commit")
    trial = Trial(steps=steps, seed=args.seed, extra=args.recipe, use_cache=not args.no_cache)
    if args.all_recipes:
        recipes = None
    else:
        recipes = args.recipes or [args.recipe.stem if args.recipe is not None else Path(PARAMS).stem]
    try:
        is_equal = compare(args.a, args.b, trial, recipes)
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.exit(not is_equal)


if __name__ == "__main__":
    main()
