"""The description of the places where the pipeline may run: `infra/targets.yaml`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ganlib.config import Section, options
from pipeline import params
from pipeline.driver.settings import ClusterConfig

FILE = "infra/targets.yaml"
COMMIT = "{commit}"
NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


def _name(value: str) -> str:
    if not re.fullmatch(NAME, value):
        raise ValueError(f"{value!r} is no name of Kubernetes: at most 63 small letters, digits and dashes, for example ganpipe-workspace")
    return value


def _quantity(value: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*(Mi|Gi|Ti)", value):
        raise ValueError(f"{value!r} is no size; expected a number and Mi, Gi or Ti, for example 8Gi")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or ".." in value:
        raise ValueError(f"{value!r} is no absolute path as the nodes see it, for example /workspace")
    return value


def _image(value: str) -> str:
    if not re.fullmatch(r"[^\s@]+(@sha256:[0-9a-f]{64}|:[0-9a-f]{40}|:\{commit\})", value):
        raise ValueError(
            f"image {value!r} could be another one tomorrow; expected NAME@sha256:DIGEST, NAME:COMMIT (40 digits), or NAME:{COMMIT}, HEAD's"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
Quantity = Annotated[str, AfterValidator(_quantity)]
Absolute = Annotated[str, AfterValidator(_absolute)]
Image = Annotated[str, AfterValidator(_image)]


class Resources(Section):
    """What each of the nodes that train has."""

    workers: int = Field(ge=1, description="nodes that train: pods, machines")
    cpus: int = Field(ge=1, description="of each")
    memory: Quantity = Field(description="of each, with the shared memory")
    gpus: int = Field(0, ge=0, description="of each")
    shm: Quantity = Field("2Gi", description="/dev/shm of each: Ray's object store; a container's own 64 MiB are too few")


class Head(Section):
    """The pod that drives: every stage but the training's workers runs there."""

    cpus: int = Field(default=2, ge=1)
    memory: Quantity = "8Gi"


class Storage(Section):
    """The folder that every node sees: runs, DVC cache, training state."""

    path: Absolute = Field(description="where the nodes see it")


class Claim(Storage):
    """The same as a volume claim of Kubernetes."""

    claim: Name = "ganpipe-workspace"
    storage_class: Name = Field(description="one that gives ReadWriteMany volumes; `kubectl get storageclass` lists them")
    size: Quantity


class Priority(Section):
    """Kubernetes: a PriorityClass, with a queue a WorkloadPriorityClass. Slurm: a quality of service; its value is the administrator's."""

    name: Name
    value: int = Field(0, ge=-1000, le=1000, description="SkyPilot, Kubernetes: the larger goes first")


class Toleration(Section):
    """A taint that pods may run on."""

    key: str
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Spot(Section):
    """Which nodes are preemptible: every cloud labels and taints them differently. Workers go there, the head does not."""

    node_selector: dict[str, str] = Field(min_length=1, description="{cloud.google.com/gke-spot: 'true'} for one")
    tolerations: list[Toleration] = Field(default_factory=list)


class Queue(Section):
    """Kueue: the job waits, suspended, until its whole group fits."""

    name: Name
    cluster_queue: Name
    flavor: Name = "default"
    cpus: int = Field(ge=1, description="quota of the queue")
    memory: Quantity
    gpus: int = Field(0, ge=0)


class Target(Section):
    """What every kind has."""

    resources: Resources
    priority: Priority | None = None
    hours: int = Field(24, ge=1, description="limit of a run")


class RayJobs(Target):
    """A Ray cluster that runs: its job server gets the job."""

    kind: Literal["ray-jobs"]
    address: str = Field(pattern=r"^https?://[^/\s@]+(:\d+)?$", description="http://HEAD:8265, without credentials")
    storage: Storage
    credentials: Absolute | None = Field(None, description="a file on every node, NAME=VALUE lines: `ganpipe submit --credentials`")


class Kubernetes(Target):
    """What every kind on Kubernetes has."""

    namespace: Name = "ganpipe"
    image: Image
    head: Head = Field(default_factory=Head)
    storage: Claim
    secret: Name = Field("ganpipe-environment", description="the Secret with MLFLOW_* and AWS_*, made by hand; never its contents")
    gpu_tolerations: list[Toleration] = Field(default_factory=lambda: [Toleration(key="nvidia.com/gpu")])
    spot: Spot | None = None
    queue: Queue | None = None
    egress_ports: list[int] = Field(
        default_factory=lambda: [443], description="pods reach these beside each other and DNS: tracking server, object store"
    )
    operator_namespace: Name = Field("kuberay-operator", description="whose operator may ask the dashboard")
    grace_seconds: int = Field(120, ge=1, description="a pod that is to end gets so long; above cluster.stop_grace_seconds")
    keep_seconds: int = Field(3600, ge=0, description="a finished job is deleted after it")
    retries: int = Field(2, ge=0, description="attempts after the first, each a new cluster that goes on from the state")


class RayJob(Kubernetes):
    """KubeRay: a cluster for one run."""

    kind: Literal["rayjob"]


class RayCluster(Kubernetes):
    """KubeRay: a cluster that stays, for `ganpipe submit`."""

    kind: Literal["raycluster"]


class TrainJob(Kubernetes):
    """Kubeflow Trainer."""

    kind: Literal["trainjob"]
    runtime: Name = Field("torch-distributed", description="ClusterTrainingRuntime; its replicated job and container are called node")


class Slurm(Target):
    """`sbatch` from a checkout that the nodes see."""

    kind: Literal["slurm"]
    storage: Storage
    partition: str | None = Field(None, pattern=r"^[\w.-]+$")
    signal_seconds: int = Field(120, ge=1, description="before the limit the run is told; above cluster.stop_grace_seconds")


class SkyPilot(Target):
    """`sky jobs launch`: machines of a cloud for one run."""

    kind: Literal["skypilot"]
    image: Image
    infra: str = Field(pattern=r"^[\w./*-]+$", description="as `sky launch --infra` takes it: aws/us-east-1, gcp, k8s")
    accelerator: str | None = Field(None, pattern=r"^[\w.-]+$", description="kind of GPU, where resources.gpus is not 0: H100")
    volume: Name = Field(description="a volume of SkyPilot that several machines mount at storage.path: `sky volumes apply`")
    storage: Storage
    use_spot: bool = False
    secrets: list[str] = Field(
        default_factory=list, description="names of variables of your environment that SkyPilot hands over as secrets"
    )

    @model_validator(mode="after")
    def _gpus_have_a_kind(self) -> "SkyPilot":
        if (self.resources.gpus > 0) != (self.accelerator is not None):
            raise ValueError(
                f"resources.gpus={self.resources.gpus} and accelerator={self.accelerator!r}: set both, accelerator: H100 for one, or neither"
            )
        return self


AnyTarget = RayJobs | RayJob | RayCluster | TrainJob | Slurm | SkyPilot
KINDS: dict[str, type[AnyTarget]] = {
    "ray-jobs": RayJobs,
    "rayjob": RayJob,
    "raycluster": RayCluster,
    "trainjob": TrainJob,
    "slurm": Slurm,
    "skypilot": SkyPilot,
}


def load(path: Path) -> dict[str, AnyTarget]:
    """Every target of the file, checked.

    Raises:
        ValueError: one line a problem: the target's key, what was got, what is legal.
    """
    values = params.read(path)
    targets = values.get("targets")
    if set(values) != {"targets"} or not isinstance(targets, dict) or not targets:
        raise ValueError(
            f"{FILE} has the keys {', '.join(map(str, values)) or 'none'}; expected `targets`, a mapping of names to descriptions"
        )
    return {str(name): _target(str(name), target) for name, target in targets.items()}


def _target(name: str, values: Any) -> AnyTarget:
    where = f"targets.{name}"
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{where}: a target's name is made of small letters, digits and dashes ({FILE})")
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind not in KINDS:
        raise ValueError(f"{where}.kind={kind!r}; expected one of {', '.join(KINDS)} ({FILE})")
    try:
        return options(KINDS[kind], values, key=where)
    except ValueError as error:
        raise ValueError(f"{FILE} cannot be used:\n" + str(error).replace("params.yaml", FILE)) from None


def check_fits(name: str, target: AnyTarget, cluster: ClusterConfig) -> None:
    """Refuse a target on which the training of params.yaml would wait for ever, or be cut off while it saves.

    Raises:
        ValueError: the keys of both files, and what to set.
    """
    fewest, _ = cluster.worker_range
    have = target.resources
    fitting = have.workers * int(have.cpus / cluster.cpus_per_worker)
    if cluster.gpus_per_worker:
        fitting = min(fitting, have.workers * int(have.gpus / cluster.gpus_per_worker))
    if fitting < fewest:
        raise ValueError(
            f"targets.{name}.resources has room for {fitting} workers of {cluster.cpus_per_worker:g} CPUs and {cluster.gpus_per_worker:g} GPUs, "
            f"the training needs {fewest}: set its workers, cpus or gpus, or cluster.workers in params.yaml"
        )
    if have.gpus and not cluster.gpus_per_worker:
        raise ValueError(
            f"targets.{name}.resources.gpus={have.gpus}, but the training would use none: set cluster.gpus_per_worker: 1 in params.yaml, or gpus: 0"
        )
    if isinstance(target, Kubernetes) and target.grace_seconds <= cluster.stop_grace_seconds:
        raise ValueError(f"targets.{name}.grace_seconds={target.grace_seconds}" + _too_short(cluster))
    if isinstance(target, Slurm) and target.signal_seconds <= cluster.stop_grace_seconds:
        raise ValueError(f"targets.{name}.signal_seconds={target.signal_seconds}" + _too_short(cluster))


def _too_short(cluster: ClusterConfig) -> str:
    return (
        f" is not above cluster.stop_grace_seconds={cluster.stop_grace_seconds:g} of params.yaml: the last checkpoint would be cut off; "
        f"set at least {int(cluster.stop_grace_seconds * 2)}"
    )
