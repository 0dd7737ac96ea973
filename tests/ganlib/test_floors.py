"""Who may import whom: the floors of the house."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_ganlib_knows_nothing_above_it():
    for path in (ROOT / "ganlib").rglob("*.py"):
        assert not roots(path) & {"ray", "mlflow", "dvc", "pipeline", "matplotlib"}, path


def test_frameworks_live_at_the_rim_one_room_each():
    for path in (ROOT / "pipeline").rglob("*.py"):
        relative = path.relative_to(ROOT / "pipeline").as_posix()
        if "mlflow" in roots(path):
            assert relative.startswith("tracking/"), path
        if "ray" in roots(path):
            assert relative.startswith("driver/") or relative == "submit/ray_jobs.py", path


def test_one_file_knows_processes():
    users = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "ganlib").rglob("*.py")
        if any(n.startswith("torch.distributed") for n in imported(p))
    }
    assert users == {"ganlib/dist.py"}


# Rooms from the bottom to the top, by their names below the package (the longest that fits a file; `models.__init__` is that file alone).
# A file imports from its own room and from lower floors; rooms of one floor know nothing of each other.
GANLIB_FLOORS = (
    {"__init__", "checks", "config", "cpus", "dist", "fields", "files", "redact", "registry", "rng"},  # what everything stands on
    {
        "alarms",
        "levels",
        "marks",
        "pictures",
        "schedule",
        "storage",
    },  # numbers of any settings, and what they say; what any array looks like
    {"data.settings", "metrics.settings", "models.settings", "modalities", "sample_settings", "tasks.settings", "train_settings"},
    {"data", "ema", "freeze", "models.__init__", "optim", "scalars", "sliced_wasserstein"},
    {"transforms"},
    {"losses", "metrics", "models.layers", "samples", "sampling", "steering"},
    {"augment", "directions", "models", "networks", "pool", "products", "saliency"},
    {"data.stream"},
    {"moment"},  # what terms see of a shard
    {"perceptual", "regularizers"},
    {"tasks"},  # algorithm boxes
    {"catalog", "training"},
    {"selection"},
)
PIPELINE_FLOORS = (
    {"garbage"},
    {
        "__init__",
        "code_digest",
        "credentials",
        "discriminator",
        "driver.settings",
        "dvc_ignore",
        "edit",
        "file_writer",
        "generator",
        "names",
        "params",
        "processes",
        "report",
        "seeded",
        "tracking.settings",
    },
    {"forms", "latent_walks", "lineage", "looking", "many_files", "pairs", "path_length", "promotion", "state_address", "tracking.store"},
    {
        "identity",
        "latent_pictures",
        "model_card",
        "provenance.__init__",
        "provenance.environment",
        "provenance.origin",
        "provenance.repository",
        "spread",
        "tracking.versions",
    },
    {"continuing", "provenance.record", "schema"},
    {"preflight"},
    {"cli"},
    {"mark"},
    {"deps", "doctor", "driver", "recipe", "submit"},
    {"tracking"},
    {"provenance.used"},
    {"selection"},
    {"artifacts", "deliver", "ready", "registry", "render", "results", "seeds", "states"},
    {"cached_outs", "parents"},
    {"compare", "prometheus", "stages"},
    {"bulk"},
    {"detect", "export", "generate", "page", "serve"},
    {"exact", "provenance"},
    {"__main__"},  # ganpipe, which runs any of them
)
FLOORS = {"ganlib": GANLIB_FLOORS, "pipeline": PIPELINE_FLOORS}
KNOWN_CIRCLES: set[tuple[str, str]] = set()  # pairs that import each other and are yet to be opened; sorted


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def import_graph(*packages: Path) -> dict[str, set[str]]:
    """Module -> the modules of these packages that it imports, inside of functions too; a package's own file only where something of it is taken."""
    known = {name: path for package in packages for name, path in modules(package).items()}
    graph: dict[str, set[str]] = {module: set() for module in known}
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names} & known.keys()
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: write the whole name of what is imported"
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                graph[module] |= {name if name in known else str(node.module) for name in whole} & known.keys()
    return graph


def rooms_of(package: Path, floors) -> dict[str, tuple[str, int]]:
    """Module -> (its room, its floor); ("", -1) where the list has no room for it."""
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    assert len(floor_of) == sum(map(len, floors)), "a room stands twice in the list"
    found = {}
    for module, path in modules(package).items():
        inside = path.relative_to(package).with_suffix("").parts
        fitting = [".".join(inside[:length]) for length in range(len(inside), 0, -1)]
        room = next((name for name in fitting if name in floor_of), "")
        found[module] = (room, floor_of.get(room, -1))
    return found


def upward_imports(package: Path, floors) -> list[str]:
    """A line for each import that leaves a room for another that is not on a lower floor, and for each file without a room."""
    rooms = rooms_of(package, floors)
    lines = [f"{module} has no room: add it to the list of floors" for module, (room, _) in rooms.items() if not room]
    for module, others in import_graph(package).items():
        (room, floor), targets = rooms[module], {other: rooms[other] for other in others}
        lines += [
            f"{module} (floor {floor}) imports {other} (floor {at})"
            for other, (at_room, at) in targets.items()
            if at_room != room and at >= floor
        ]
    return sorted(lines)


def circle(graph: dict[str, set[str]]) -> str:
    """The path of a circle of imports, or ""."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))  # it lists who is imported before who imports
    return ""


@pytest.mark.parametrize("package", FLOORS)
def test_lower_floors_do_not_import_higher_ones(package):
    """Kills a `from ganlib.regularizers import ...` in ganlib/moment.py, inside a function too, and a room that is no more."""
    assert upward_imports(ROOT / package, FLOORS[package]) == []
    assert {room for room, _ in rooms_of(ROOT / package, FLOORS[package]).values()} == set().union(*FLOORS[package]), "a room is empty"


def test_nothing_imports_in_circles():
    """Neither through other files nor in a function, where it would work, and hide that two files are one."""
    graph = import_graph(ROOT / "ganlib", ROOT / "pipeline")
    assert len(graph) > 100
    for one, other in KNOWN_CIRCLES:
        assert other in graph[one], f"{one} and {other} are no circle any more: take them out of KNOWN_CIRCLES"
        assert one in graph[other], f"{one} and {other} are no circle any more: take them out of KNOWN_CIRCLES"
        graph[one].discard(other)
    assert circle(graph) == ""


def test_the_walk_finds_what_is_planted(tmp_path):
    """The three tests above are only as good as the walk: upward, sideways, into a package's own file, in a function, in a circle."""
    package = tmp_path / "house"
    files = {
        "__init__": "",
        "base": "def late():\n    from house.top import x\n",
        "left": "import house.right\nfrom house import base\n",
        "right": "from house.base import late\n",
        "top/__init__": "from house.left import y\nx = 1\n",
        "top/part": "from house.top import x\nfrom house.top import other\n",
        "top/other": "",
        "lost": "",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    graph = import_graph(package)
    assert graph["house.left"] == {"house.right", "house.base"}
    assert graph["house.top.part"] == {"house.top", "house.top.other"}
    assert upward_imports(package, ({"__init__", "base"}, {"left", "right"}, {"top"})) == [
        "house.base (floor 0) imports house.top (floor 2)",
        "house.left (floor 1) imports house.right (floor 1)",
        "house.lost has no room: add it to the list of floors",
    ]
    path = circle(graph).split(" -> ")
    assert path[0] == path[-1]
    assert set(path) <= {"house.base", "house.top", "house.left", "house.right"}
    assert {"house.base", "house.top"} <= set(path)
    assert all(after in graph[before] for before, after in pairwise(path))
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == ""


def test_import_is_silent_and_leaves_the_global_generator_alone():
    code = (
        "import torch; s = torch.get_rng_state(); import ganlib.catalog, ganlib.training.loop; assert torch.equal(s, torch.get_rng_state())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
