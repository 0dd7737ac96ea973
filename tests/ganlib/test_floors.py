"""Who may import whom: the floors of the house."""

import ast
import subprocess
import sys
from pathlib import Path

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


def test_frameworks_live_at_the_rim_one_file_each():
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


def test_lower_floors_do_not_import_higher_ones():
    floor = {"training": 3, "tasks": 2}
    low = {"registry", "config", "rng", "dist", "checks", "files"}
    for path in (ROOT / "ganlib").rglob("*.py"):
        part = path.relative_to(ROOT / "ganlib").parts[0].removesuffix(".py")
        if part in ("catalog", "__init__"):
            continue
        level = floor.get(part, 0 if part in low else 1)
        for name in imported(path):
            if name.startswith("ganlib."):
                other = name.split(".")[1]
                assert floor.get(other, 0 if other in low else 1) <= level, f"{path} imports {name}"


def test_import_is_silent_and_leaves_the_global_generator_alone():
    code = (
        "import torch; s = torch.get_rng_state(); import ganlib.catalog, ganlib.training.loop; assert torch.equal(s, torch.get_rng_state())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
