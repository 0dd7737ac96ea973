"""Print exactly what would be sent to a cluster of infra/targets.yaml, or write it into a folder; nothing is sent.

ganpipe render                       # which targets there are
ganpipe render kuberay               # the manifest, and on stderr the command that sends it
ganpipe render kuberay --once        # what an administrator makes once: rights, network, volume, queue
ganpipe render kuberay --out DIR     # both as files; for Kubernetes a kustomize base with overlays cpu, gpu, spot, kueue
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ganlib.files import atomic_write
from pipeline import params
from pipeline.driver.settings import ClusterConfig
from pipeline.render import description, kubeflow, kuberay, kustomize, sky, slurm
from pipeline.render.description import COMMIT, FILE, AnyTarget, Kubernetes, RayCluster, RayJob, RayJobs, SkyPilot, Slurm, TrainJob
from pipeline.render.once import once
from pipeline.render.pods import Manifest
from pipeline.submit.package import head_commit, uncommitted


def rendered(name: str, target: AnyTarget, cluster: ClusterConfig, root: Path) -> tuple[dict[str, str], str]:
    """Path -> text of what would be sent, the first of them what is printed; and the command that sends it.

    Raises:
        ValueError: the training of params.yaml does not fit on the target; {commit} without a repository.
    """
    description.check_fits(name, target, cluster)
    drain = int(cluster.stop_grace_seconds) + 10
    if isinstance(target, RayJobs):
        words = ["ganpipe", "submit", "--address", target.address, "--workspace", target.storage.path]
        words += ["--credentials", target.credentials] if target.credentials else []
        return {"submit.sh": shlex.join([*words, "--timeout-minutes", str(60 * target.hours)]) + "\n"}, "sh submit.sh"
    if isinstance(target, Slurm):
        return {"train.sbatch": slurm.script(target, name, root, drain_seconds=drain)}, "sbatch train.sbatch    # from the project's root"
    commit = head_commit(root)
    image = target.image.replace(COMMIT, commit)
    run = f"ganpipe-{name}"[:34].rstrip("-") + f"-{commit[:12]}"  # the same commit is the same run: applied again it is not run again
    if isinstance(target, SkyPilot):
        flags = "".join(f" --secret {secret}" for secret in ("RAY_AUTH_TOKEN", *target.secrets))
        return {"task.yaml": text(sky.task(target, run, image))}, f"sky jobs launch{flags} task.yaml"
    base = _base(target, run, image, cluster, drain)
    files = {"run.yaml": text(kustomize.resolved(base, target)), "once.yaml": text(*once(target))}
    for path, content in kustomize.tree(base, target).items():
        files[path] = text(content)
    return files, "kubectl apply -f run.yaml    # or -k . ; before the first run, by an administrator: kubectl apply -f once.yaml"


def _base(target: RayJob | RayCluster | TrainJob, run: str, image: str, cluster: ClusterConfig, drain: int) -> Manifest:
    if isinstance(target, TrainJob):
        return kubeflow.train_job(target, run, image)
    low, high = cluster.worker_range
    fewest = target.resources.workers if low == high else max(1, -(-low * target.resources.workers // high))
    spec = kuberay.cluster_spec(target, image=image, ray_version=metadata.version("ray"), fewest=fewest, drain_seconds=drain)
    if isinstance(target, RayCluster):
        return kuberay.ray_cluster(target, run.rpartition("-")[0], spec)  # it outlives a commit
    return kuberay.ray_job(target, run, image, spec)


class _Dumper(yaml.SafeDumper):
    """Without anchors: what is shared here is none of the reader's business."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _literal(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _literal)


def text(*documents: Manifest | list[Manifest]) -> str:
    return "---\n".join(yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=140) for document in documents)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ganpipe render", description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", help=f"a name of {FILE}; none: they are listed")
    parser.add_argument("--once", action="store_true", help="what an administrator makes once, instead of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write files instead of printing them")
    parser.add_argument("--targets", type=Path, metavar="FILE", help=f"another description than {FILE}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, *, root: Path | None = None) -> int:
    """The command; returns its exit code."""
    options = _arguments(arguments)
    root = root or params.clone()
    targets = description.load(options.targets or root / FILE)
    if options.target is None:
        print("\n".join(f"{name:<16} {target.kind}" for name, target in targets.items()))
        return 0
    if options.target not in targets:
        raise ValueError(f"no target {options.target!r} in {FILE}; there are {', '.join(targets)}")
    target = targets[options.target]
    cluster = params.section("cluster", ClusterConfig, root / "params.yaml")
    if options.once and not isinstance(target, Kubernetes):
        raise ValueError(f"--once: targets.{options.target} is {target.kind}, for which nothing is made once; leave the flag out")
    files, send = rendered(options.target, target, cluster, root)
    if uncommitted(root):
        print("note: uncommitted changes are in no image and no job", file=sys.stderr)
    if options.out:
        for path, content in files.items():
            (options.out / path).parent.mkdir(parents=True, exist_ok=True)
            atomic_write(options.out / path, content.encode())
        print("\n".join(str(options.out / path) for path in files))
    else:
        sys.stdout.write(files["once.yaml"] if options.once else next(iter(files.values())))
    print(f"to send it: {send}", file=sys.stderr)
    return 0
