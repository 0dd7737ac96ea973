"""Which edit of the code moves the digest of a training, and which parts of it: on a copy of the project, and on small ones for each rule.

A part that is missing would restore the weights of another code; one too many would train again for nothing. Mostly tables: hence the length.
"""

import ast
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import identity, preflight
from pipeline.code_digest import Definitions, definitions
from pipeline.schema import Params

ROOT = Path(__file__).resolve().parents[2]


def params_of(**task: object) -> Params:
    values = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    values["task"] |= task
    return preflight.parse(values)


DEFAULT = params_of()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for package in ("ganlib", "pipeline"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def before(project) -> Definitions:
    return identity.training_code(DEFAULT, project)


def moved(before: Definitions, after: Definitions) -> set[str]:
    assert (before.digest == after.digest) == (before.parts == after.parts)
    return {part for part, _ in before.parts.items() ^ after.parts.items()}


NEW_LOSS = """from ganlib.losses import LOSSES

@LOSSES.register("new")
class New:
    '''A loss.'''
"""
# edit: (file, old text or "" for the end of the file, new text, parts that move)
EDITS: dict[str, tuple[str, str, str, set[str]]] = {
    # nothing moves
    "a comment": ("training/step.py", "state.step += 1", "state.step += 1  # a step", set()),
    "a docstring": ("training/step.py", "One iteration: each", "Each", set()),
    "a docstring of a module": ("rng.py", "Counter-based randomness", "Randomness", set()),
    "a lone text": ("rng.py", "", "'what follows'\n", set()),
    "a line broken": ("rng.py", "digest_size=8).digest()", "digest_size=8,\n    ).digest()", set()),
    "imports in another order": (
        "training/step.py", "from ganlib.checks import norm\nfrom ganlib.data.stream import BatchStream\n",
        "from ganlib.data.stream import BatchStream\nfrom ganlib.checks import norm\n", set(),
    ),
    "an import that is used by nothing that counts": (
        "losses.py", "@LOSSES.register(\"hinge\"", "import cmath\n\ndef helper():\n    return cmath.pi\n\n@LOSSES.register(\"hinge\"", set(),
    ),
    "functions in another order": ("rng.py", "def key_of(", "def unused():\n    return 1\n\n\ndef key_of(", set()),
    "a loss that is not used": ("losses.py", "return F.relu(1 - real_logits)", "return F.relu(2 - real_logits)", set()),
    "the name of a loss that is not used": ("losses.py", 'register("hinge"', 'register("hinges"', set()),
    "a term that is not used": ("regularizers.py", "gamma: float = 1.0", "gamma: float = 2.0", set()),
    "an optimizer that is not used": ("optim.py", "alpha: float = 0.99", "alpha: float = 0.9", set()),
    "an augmentation that is not used": ("augment/diffaugment.py", "cutout: float = 0.5", "cutout: float = 0.6", set()),
    "a family that is not used": ("models/mlp.py", "nn.LeakyReLU(0.2)", "nn.LeakyReLU(0.1)", set()),
    "a helper of families that are not used": ("models/layers/attention.py", "", "UNUSED = 1\n", set()),
    "a task that is not used": ("tasks/progressive.py", "fade.present", "None", set()),
    "a new loss": ("augment/new.py", "", NEW_LOSS, set()),
    "a new constant": ("rng.py", "", "UNUSED = 1\n", set()),
    "a constant in the __init__ of a package": ("__init__.py", "", "VERSION = 1\n", set()),
    "where a used loss is from": ("losses.py", 'paper="arXiv:1406.2661, section 3"', 'paper="the first"', set()),
    "what a setting means": ("models/settings.py", "N(0, 1) or U(-1, 1)", "of the latents", set()),
    "the start as a program": ("training/step.py", "", 'if __name__ == "__main__":\n    print(1)\n', set()),
    "a module no training imports": ("metrics/fid.py", "", "print(1)\n", set()),
    "the catalogue": ("catalog.py", "", "print(1)\n", set()),
    "how torchrun is joined": ("dist.py", "timeout_seconds: float = 600.0", "timeout_seconds: float = 60.0", set()),
    # what is used
    "a used loss": ("losses.py", "return F.softplus(-fake_logits)", "return F.softplus(fake_logits)", {"ganlib.losses:NonSaturating"}),
    "what a used loss derives from": ("losses.py", "smoothing: float = 0.0", "smoothing: float = 0.1", {"ganlib.losses:_CrossEntropy"}),
    "a used family": ("models/dcgan.py", "nn.LeakyReLU(0.2", "nn.LeakyReLU(0.1", {"ganlib.models.dcgan:DCGANDiscriminator"}),
    "a helper that only a used family calls": (
        "models/layers/initialise.py", "std: float = 0.02", "std: float = 0.03", {"ganlib.models.layers.initialise:initialise_normal"},
    ),
    "a constant": ("ema.py", "RAMP = ", "RAMP = 2 * ", {"ganlib.ema:RAMP"}),
    "a default argument": ("optim.py", "lazy_interval: int = 1", "lazy_interval: int = 2", {"ganlib.optim:build"}),
    "an annotation": ("training/step.py", "batches: BatchStream,", "batches: object,", {"ganlib.training.step:train_step"}),
    "a decorator": ("training/hooks.py", "@torch.no_grad()\ndef calibrate_g", "def calibrate_g", {"ganlib.training.hooks:calibrate_generator"}),
    "the name of a local variable": ("checks.py", "for t in tensors if t.numel()", "for x in tensors if x.numel()", {"ganlib.checks:norm"}),
    "the random numbers": ("rng.py", "digest_size=8", "digest_size=7", {"ganlib.rng:key_of"}),
    "how processes are summed": ("dist.py", "level[i] + level[i + 1]", "level[i + 1] + level[i]", {"ganlib.dist:tree_sum"}),
    "what a name is": (
        "losses.py", "import torch.nn.functional as F", "import torch.special as F",
        {"ganlib.losses:NonSaturating", "ganlib.losses:_CrossEntropy"},
    ),
    "the default of a setting": ("train_settings.py", 'Field("bf16"', 'Field("fp32"', {"ganlib.train_settings:TrainConfig"}),
    "the range of a setting": (
        "train_settings.py", "float = Field(0.5, gt=0, lt=1", "float = Field(0.5, gt=0, lt=2", {"ganlib.train_settings:TrainConfig"},
    ),
    "an error": ("config.py", "is missing; add it", "is missing: add it", {"ganlib.config:explain"}),
    # what an import does
    "a call in a module that is reached": ("rng.py", "", "torch.manual_seed(0)\n", {"ganlib.rng:<module>"}),
    "a loop in it": ("rng.py", "", "for _ in ():\n    print()\n", {"ganlib.rng:_", "ganlib.rng:<module>"}),
    "a call in a module that is only imported": ("models/mlp.py", "", "torch.manual_seed(0)\n", {"ganlib.models.mlp:<module>"}),
    "a call in the __init__ of a package": ("models/layers/__init__.py", "", "print()\n", {"ganlib.models.layers:<module>"}),
    "a call in a new file of a registry": ("augment/new.py", "", NEW_LOSS + "print()\n", {"ganlib.augment.new:<module>"}),
    "a loss that does something when it is defined": (
        "losses.py", "class Hinge:\n", "class Hinge:\n    print()\n", {"ganlib.losses:Hinge", "ganlib.losses:<module>"},
    ),
    "an import for its effect": ("rng.py", "import hashlib\n", "import hashlib\nimport readline\n", {"ganlib.rng:<module>"}),
}  # fmt: skip


@contextmanager
def edited(project: Path, *edits: str) -> Iterator[None]:
    before: dict[Path, str | None] = {}
    try:
        for file, old, new, _ in (EDITS[edit] for edit in edits):
            path = project / "ganlib" / file
            text = path.read_text() if path.exists() else ""
            before.setdefault(path, text or None)
            assert old in text, f"{file} has changed: choose another edit"
            path.write_text(text.replace(old, new, 1) if old else f"{text}\n\n{new}")
        yield
    finally:
        for path, was in before.items():
            path.write_text(was) if was is not None else path.unlink()


@pytest.mark.parametrize("edit", [edit for edit, (*_, expected) in EDITS.items() if expected])
def test_an_edit_moves_what_it_means(edit, project, before):
    """Kills: a closure that leaves out bases, defaults, annotations, decorators, what imports bind or what an import does."""
    with edited(project, edit):
        assert moved(before, identity.training_code(DEFAULT, project)) == EDITS[edit][3]


def test_edits_that_mean_nothing_here_move_nothing(project, before):
    """All of them at once. Kills: a digest by bytes or by file, entries that count by the file they lie in, docstrings that count."""
    with edited(project, *(edit for edit, (*_, expected) in EDITS.items() if not expected)):
        assert moved(before, identity.training_code(DEFAULT, project)) == set()


def test_a_term_moves_the_key_of_a_training_that_uses_it(project, before):
    """Kills: names of settings that are taken from some keys only: `r1` is a key, not a value."""
    chosen = params_of(regularizers={"r1": {}})
    used = identity.training_code(chosen, project)
    assert moved(before, used) == {f"ganlib.regularizers:{name}" for name in ("R1", "Critic", "input_gradient", "squared_norm")}
    path = project / "ganlib" / "regularizers.py"
    text = path.read_text()
    try:
        path.write_text(
            text.replace("0.5 * self.gamma * squared_norm(input_gradient(moment.critic(moment.labels), moment.real))", "0 * moment.real")
        )
        assert "ganlib.regularizers:R1" in moved(used, identity.training_code(chosen, project))
        assert moved(before, identity.training_code(DEFAULT, project)) == set()
    finally:
        path.write_text(text)


def test_the_default_of_a_setting_is_no_name_that_is_asked_for(project):
    """Kills: `non_saturating` counting for a training with another loss because it stands in the schema."""
    parts = identity.training_code(params_of(loss="wasserstein"), project).parts
    assert "ganlib.losses:Wasserstein" in parts
    assert "ganlib.losses:NonSaturating" not in parts


def test_a_project_without_comments_in_another_layout_is_the_same(project, before, tmp_path):
    """Kills: any trace of layout in a form. Every file is printed anew from its syntax tree, its docstrings replaced."""
    for path in project.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body[0] = ast.Expr(ast.Constant("another text"))
        target = tmp_path / path.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    assert identity.training_code(DEFAULT, tmp_path) == before


def test_an_unknown_root_is_refused(project):
    for root in ("ganlib.training.loop:trains", "ganlib.nothing:train", "torch:nn", "ganlib.training.loop"):
        with pytest.raises(ValueError, match=r"is no definition below .*expected one like 'ganlib.training.loop:train'"):
            definitions([root], names=[], root=project)


# Small projects: `ganlib/main.py` with the root `main`, and `ganlib/other.py` which defines `used`, `unused` and Thing.

OTHER = "def used(): return 1\n\ndef unused(): return 2\n\nclass Thing:\n    pass\n"
USED, UNUSED, THING = "ganlib.other:used", "ganlib.other:unused", "ganlib.other:Thing"
ALL = {USED, UNUSED, THING}
REGISTRY = "from ganlib.registry import Registry\nTHINGS = Registry('thing', package='ganlib.things')\n"
ENTRY = "from ganlib.things import THINGS\n@THINGS.register({name!r})\nclass {cls}:\n    '''Text.'''\n"
A, B = "ganlib.things.a:A", "ganlib.things.b:B"


def parts_of(tmp_path: Path, files: dict[str, str], names: set[str] | None = None) -> dict[str, str]:
    things = {"__init__": REGISTRY, "a": ENTRY.format(name="a", cls="A"), "b": ENTRY.format(name="b", cls="B")}
    texts = {"__init__": "", "other": OTHER, "sub/__init__": "", "sub/deep": OTHER} | {
        f"things/{name}": text for name, text in things.items()
    }
    texts["registry"] = (ROOT / "ganlib" / "registry.py").read_text()
    for name, text in (texts | files).items():
        path = tmp_path / "ganlib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return definitions(["ganlib.main:main"], names=names or set(), root=tmp_path).parts


# how a name is used: (ganlib/main.py, what of ganlib.other counts)
USES: dict[str, tuple[str, set[str]]] = {
    "not at all": ("from ganlib import other\ndef main(): pass", set()),
    "from module import": ("from ganlib.other import used\ndef main(): used()", {USED}),
    "under another name": ("from ganlib.other import used as unused\ndef main(): unused()", {USED}),
    "module.attribute": ("from ganlib import other\ndef main(): other.used()", {USED}),
    "package.module.attribute": ("import ganlib.other\ndef main(): ganlib.other.used()", {USED}),
    "import as": ("import ganlib.other as it\ndef main(): it.used()", {USED}),
    "relative": ("from .other import used\ndef main(): used()", {USED}),
    "relative module": ("from . import other\ndef main(): other.used()", {USED}),
    "imported inside": ("def main():\n    from ganlib.other import used\n    return used()", {USED}),
    "imported inside, as a module": ("def main():\n    import ganlib.other\n    return ganlib.other.used()", {USED}),
    "imported in a class": ("class A:\n    from ganlib.other import used\n    value = used()\ndef main(): A()", {USED}),
    "as what a class has": ("class A:\n    from ganlib.other import used\n    def f(self): self.used()\ndef main(): A().f()", {USED}),
    "star": ("from ganlib.other import *\ndef main(): used()", ALL),
    "handed on": ("from ganlib import other\ndef main(): print(other)", ALL),
    "getattr": ("from ganlib import other\ndef main(name): getattr(other, name)()", ALL),
    "an attribute that is not there": ("from ganlib import other\ndef main(): other.__dict__", ALL),
    "a package handed on": ("import ganlib\ndef main(): print(ganlib)", ALL),
    "import_module of a constant": ("from importlib import import_module\ndef main(): import_module('ganlib.other')", ALL),
    "import_module of anything": ("import importlib\ndef main(name): importlib.import_module(name)", ALL),
    "import_module of a relative name": ("import importlib\ndef main(): importlib.import_module('.other', 'ganlib')", ALL),
    "files of a package": ("from importlib.resources import files\ndef main(name): files(name)", set()),
    "importlib handed on": ("import importlib\ndef main(): print(importlib)", ALL),
    "__import__": ("def main(name): __import__(name)", ALL),
    "sys.modules": ("import sys\ndef main(name): sys.modules[name]", ALL),
    "__subclasses__": ("from ganlib.other import Thing\ndef main(): Thing.__subclasses__()", ALL),
    "globals": ("from ganlib.other import used, Thing\ndef main(name): globals()[name]()", {USED, THING}),
    "in a default": ("from ganlib.other import used\ndef main(f=used): f()", {USED}),
    "in a keyword default": ("from ganlib.other import used\ndef main(*, f=used): f()", {USED}),
    "in an annotation": ("from ganlib.other import Thing\ndef main(x: Thing): pass", {THING}),
    "in a written annotation": ("from ganlib.other import Thing\ndef main() -> 'list[Thing] | None': pass", {THING}),
    "in the annotation of a variable": ("from ganlib.other import Thing\ndef main():\n    x: Thing", {THING}),
    "in a decorator": ("from ganlib.other import used\n@used\ndef main(): pass", {USED}),
    "in a decorator of a class": ("from ganlib.other import used\n@used\nclass A: pass\ndef main(): A()", {USED}),
    "in the decorator of a class that is quiet": (
        "from dataclasses import dataclass\nfrom ganlib.other import Thing\n@dataclass(slots=Thing)\nclass A: pass\ndef main(): A()", {THING},
    ),
    "as a base": ("from ganlib.other import Thing\nclass A(Thing): pass\ndef main(): A()", {THING}),
    "in a method": ("from ganlib.other import used\nclass A:\n    def f(self): used()\ndef main(): A()", {USED}),
    "in an inner function": ("from ganlib.other import used\ndef main():\n    def f(): return lambda: used()\n    return f", {USED}),
    "in a comprehension": ("from ganlib.other import used\ndef main(): return [used() for x in y if z]", {USED}),
    "as what a comprehension goes through": ("from ganlib.other import used\ndef main(): return [used for used in used()]", {USED}),
    "by a constant of the module": ("from ganlib.other import used\nTABLE = {'a': used}\ndef main(): TABLE['a']()", {USED}),
    "in a match": ("from ganlib.other import Thing\ndef main(x):\n    match x:\n        case Thing(): pass", {THING}),
    "through another module": ("from ganlib.between import it\ndef main(): it()", {USED}),
    "as an attribute of another module": ("from ganlib import between\ndef main(): between.other.used()", {USED}),
    "a parameter of that name": ("from ganlib.other import used\ndef main(used): used()", set()),
    "a local of that name": ("from ganlib import other\ndef main(x):\n    other = x\n    other.used()", set()),
    "a loop variable of that name": ("from ganlib import other\ndef main(): return [other for other in x]", set()),
    "a parameter of the function around": ("from ganlib.other import used\ndef main(used):\n    return lambda: used()", set()),
    "a name of a class, seen by a method": ("from ganlib.other import used\nclass A:\n    used = 1\n    def f(self): used()\ndef main(): A", {USED}),
    "a local declared global": ("from ganlib.other import used\ndef main():\n    global used\n    used = used()", {USED}),
    "declared global in an inner function": (
        "from ganlib.other import used\ndef main(used):\n    def f():\n        global used\n        used()\n    return f", {USED},
    ),
    "by importing what does something": ("import ganlib.acts.leaf\ndef main(): pass", {USED, UNUSED}),
    "by importing it under a condition": ("if x:\n    import ganlib.acts.leaf\ndef main(): pass", {USED, UNUSED}),
    "by importing it inside": ("def main():\n    import ganlib.acts.leaf", {USED, UNUSED}),
    "by importing it from its package": ("def main():\n    from ganlib.acts import leaf", {USED, UNUSED}),
    "by importing its package": ("import ganlib.acts\ndef main(): pass", {USED}),
    "by importing it in a function that does not count": ("def f():\n    import ganlib.acts.leaf\ndef main(): pass", set()),
    "declared nonlocal": (
        "def main():\n    from ganlib.other import used as f\n    def g():\n        nonlocal f\n        f()\n        f = 1\n    g()", {USED},
    ),
    "by the relative import of a package": ("from ganlib.relative import it\ndef main(): it()", {USED}),
    "a local import": ("from ganlib.other import unused as f\ndef main():\n    from ganlib.other import used as f\n    f()", {USED}),
    "bound in two ways": (
        "try:\n    from ganlib.other import used as f\nexcept ImportError:\n    from ganlib.other import unused as f\ndef main(): f()",
        {USED, UNUSED},
    ),
    "bound twice": ("from ganlib.other import used, unused\nf = used\nf = unused\ndef main(): f()", {USED, UNUSED}),
    "by an import's loop": ("from ganlib.other import used\nfor x in []: used()\ndef main(): pass", {USED}),
    "by a table that a decorator fills": (
        "from ganlib.other import used\nT = {}\ndef add(f): T[0] = f\n@add\ndef g(): used()\ndef main(): T[0]()", {USED},
    ),
    "by a call that makes a constant": ("from ganlib.other import used\nX = used()\ndef main(): pass", {USED}),
    "by a class that is told of its subclasses": (
        "from ganlib.other import used\nclass A:\n    def __init_subclass__(cls): pass\nclass B(A):\n    x = used\ndef main(): pass", {USED},
    ),
    "by a metaclass": ("from ganlib.other import used\nclass B(metaclass=used): pass\ndef main(): pass", {USED}),
    "by a class that acts": ("from ganlib.other import used\nclass B:\n    used()\ndef main(): pass", {USED}),
    "by the __getattr__ of a module": ("from ganlib.other import used\ndef __getattr__(name): return used\ndef main(): pass", {USED}),
    "by a function that does not count": ("from ganlib.other import used\ndef f(): used()\ndef main(): pass", set()),
    "by an assignment that does not count": ("from ganlib.other import used\nX = [used]\ndef main(): pass", set()),
    "by a class that does not count": ("from ganlib.other import Thing\nclass A(Thing):\n    x = Thing()\ndef main(): pass", set()),
    "by the start as a program": ("from ganlib.other import used\ndef main(): pass\nif __name__ == '__main__':\n    used()", set()),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_what_counts_by_how_it_is_named(use, tmp_path):
    """Kills: each way of naming a thing that is dropped from `Reading`, `Project` or `Effects`, and each scope that is forgotten."""
    text, expected = USES[use]
    files = {
        "main": text,
        "between": "from ganlib.other import used as it\nfrom ganlib import other\n",
        "relative/__init__": "from ..other import used as it\n",
        "acts/__init__": "from ganlib.other import used\nused()\n",
        "acts/leaf": "from ganlib.other import unused\nunused()\n",
    }
    assert ALL & set(parts_of(tmp_path, files)) == expected


# how a registry is used: (ganlib/main.py, names of the settings, entries that count)
ASKED: dict[str, tuple[str, set[str], set[str]]] = {
    "not at all": ("from ganlib.things import THINGS\ndef main(): pass", {"a"}, set()),
    "by a setting": ("from ganlib.things import THINGS\ndef main(name): THINGS.get(name)", {"a"}, {A}),
    "by the attribute of a setting": ("from ganlib.things import THINGS\ndef main(x): THINGS.get(x.name, key='x')", {"a"}, {A}),
    "by a keyword": ("from ganlib.things import THINGS\ndef main(x): THINGS.get(name=x)", {"a"}, {A}),
    "by each of several": ("from ganlib.things import THINGS\ndef main(xs): return [THINGS.get(x) for x in xs]", {"b"}, {B}),
    "under another name": ("from ganlib.things import THINGS as T\ndef main(x): T.get(x)", {"a"}, {A}),
    "through its module": ("from ganlib import things\ndef main(x): things.THINGS.get(x)", {"a"}, {A}),
    "for a constant": ("from ganlib.things import THINGS\ndef main(): THINGS.get('b')", set(), {B}),
    "for one of two constants": ("from ganlib.things import THINGS\ndef main(x): THINGS.get('a' if x else 'b')", set(), {A, B}),
    "for a constant from elsewhere": ("from ganlib.things import THINGS\ndef make(x): THINGS.get(x)\ndef main(): make('b')", {"a"}, {A, B}),
    "for a default": ("from ganlib.things import THINGS\ndef main(x='b'): THINGS.get(x)", set(), {B}),
    "for the default of a field": ("from ganlib.things import THINGS\nclass S:\n    x: str = 'b'\ndef main(s: S): THINGS.get(s.x)", {"a"}, {A, B}),
    "for a computed name": ("from ganlib.things import THINGS\ndef main(x): THINGS.get(x + '_')", set(), {A, B}),
    "for a name computed before": ("from ganlib.things import THINGS\ndef main(x):\n    y = f'{x}_'\n    THINGS.get(y)", set(), {A, B}),
    "by going through it": ("from ganlib.things import THINGS\ndef main(): return [e for e in THINGS]", set(), {A, B}),
    "for its names": ("from ganlib.things import THINGS\ndef main(): THINGS.names()", set(), {A, B}),
    "by handing it on": ("from ganlib.things import THINGS\ndef main(): print(THINGS)", set(), {A, B}),
    "by handing its method on": ("from ganlib.things import THINGS\ndef main(): map(THINGS.get, x)", set(), {A, B}),
    "by handing its module on": ("from ganlib import things\ndef main(x): getattr(things, x)", set(), {A, B}),
    "under a name of its own": ("from ganlib.things import THINGS\nT = THINGS\ndef main(x): T.get(x)", set(), {A, B}),
    "as a type": ("from ganlib.things import THINGS\nfrom ganlib.registry import Registry\ndef main(x: Registry): x", {"a"}, set()),
    "one that is made elsewhere": ("from ganlib.registry import Registry\ndef main(x): Registry('thing', package=x).get(x)", set(), {A, B}),
    "a kind of its own": (
        "from ganlib.registry import Registry\nclass R(Registry): pass\nT = R('t', package='ganlib')\ndef main(x): T.get(x)", set(), {A, B},
    ),
    "an entry by its class": ("from ganlib.things.a import A\ndef main(): A()", {"b"}, {A}),
}  # fmt: skip


@pytest.mark.parametrize("use", ASKED)
def test_what_counts_by_how_a_registry_is_asked(use, tmp_path):
    """Kills: an entry that counts by its file; a registry that is asked in a way nobody can follow and then for what the settings name alone."""
    text, names, expected = ASKED[use]
    assert {A, B} & set(parts_of(tmp_path, {"main": text}, names)) == expected


def test_a_registry_of_a_module_that_is_handed_on_may_be_asked_for_anything(tmp_path):
    """Kills: definitions of such a module that count, without the entries that come with them."""
    files = {"held": REGISTRY, "things/__init__": ""}
    files |= {f"things/{name}": ENTRY.format(name=name, cls=name.upper()).replace("ganlib.things", "ganlib.held") for name in "ab"}
    assert {A, B} <= set(parts_of(tmp_path, {"main": "from ganlib import held\ndef main(name): getattr(held, name)", **files}))


def test_entries_that_are_filed_in_other_ways(tmp_path):
    """Kills: entries that are looked for as decorators alone, or in the registry's package alone; a name that is no constant and does not count."""
    main = "from ganlib.things import THINGS\nfrom ganlib import other\ndef main(name): THINGS.get(name)"
    call = "from ganlib.things import THINGS\nclass {0}:\n    pass\nTHINGS.register('{0}')({0}())\n"
    files = {
        "things/c": call.format("C"),
        "things/d": call.format("D"),
        "things/e": ENTRY.format(name="e", cls="E").replace("'e'", "'e'.lower()"),
    }
    files["other"] = ENTRY.format(name="f", cls="F")
    files["things/g"] = "from ganlib.things import THINGS\nclass G: pass\nfor name in 'gh': THINGS.register(name)(G)\n"
    files["things/h"] = call.format("H").replace("pass", "def __init__(self): print()")  # making the value may do anything
    found = set(parts_of(tmp_path, {"main": main, **files}, {"C", "f"}))
    assert {part for part in found if part[:13] in ("ganlib.things", "ganlib.other:")} == {
        "ganlib.things:THINGS",
        "ganlib.things.c:C",
        "ganlib.things.c:THINGS.C",
        "ganlib.things.e:E",
        "ganlib.other:F",
        "ganlib.things.g:G",
        "ganlib.things.g:name",
        "ganlib.things.g:<module>",
        "ganlib.things.h:H",
        "ganlib.things.h:THINGS.H",
        "ganlib.things.h:<module>",
    }


# two versions of ganlib/main.py (or ganlib/between.py) that mean something else, though each definition reads the same
ORDERS = {
    "what a name is bound to": ("from math import floor as f\ndef main(): f()", "from math import ceil as f\ndef main(): f()"),
    "what another module has under a name": (
        "from ganlib.other import used as f, unused as g\ndef main(): f(), g()",
        "from ganlib.other import unused as f, used as g\ndef main(): f(), g()",
    ),
    "the order of what an import does": (
        "T = []\nT.append(1)\nT.append(2)\ndef main(): T",
        "T = []\nT.append(2)\nT.append(1)\ndef main(): T",
    ),
    "when a constant is made": (
        "T = []\nT.append(1)\nN = len(T)\nT.append(1)\ndef main(): N",
        "T = []\nT.append(1)\nT.append(1)\nN = len(T)\ndef main(): N",
    ),
    "which of two bindings is the last": ("x = 1\nx = 2\ndef main(): x", "x = 2\nx = 1\ndef main(): x"),
    "which of two imports is the last": (
        "from ganlib.other import used as f\nfrom ganlib.sub.deep import used as f\ndef main(): f()",
        "from ganlib.sub.deep import used as f\nfrom ganlib.other import used as f\ndef main(): f()",
    ),
    "when a name is read": ("a = 1\nb = a\na = 2\ndef main(): b", "a = 1\na = 2\nb = a\ndef main(): b"),
    "annotations that are not evaluated": ("def main(x: print()): 0", "from __future__ import annotations\ndef main(x: print()): 0"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_definitions_may_mean_something_else(order, tmp_path):
    """Kills: a form of the text alone, without what its names are bound to; definitions as a set where their order says something."""
    one, other = (parts_of(tmp_path, {"main": text}) for text in ORDERS[order])
    assert one != other


def test_a_name_that_comes_another_way_is_the_same_definition(tmp_path):
    """Moving an import through another module changes nothing, and changing what it passes on does. Kills: forms with the import, not its end."""
    direct = parts_of(tmp_path, {"main": "from ganlib.other import used as it\ndef main(): it()"})
    indirect = "from ganlib.between import it\ndef main(): it()"
    assert parts_of(tmp_path, {"main": indirect, "between": "from ganlib.other import used as it"}) == direct
    assert parts_of(tmp_path, {"main": indirect, "between": "from ganlib.other import unused as it"}) != direct
