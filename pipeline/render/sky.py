"""A task of SkyPilot. Its machines run a Ray of SkyPilot's own, beside which `ray symmetric-run` refuses to start, so ours is started by hand."""

from pipeline.render.description import SkyPilot
from pipeline.render.pods import PROJECT, Manifest

PORT = 6399  # SkyPilot's own Ray has 6380
RUN = f"""\
cd {PROJECT}
head="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"
if [ "$SKYPILOT_NODE_RANK" -ne 0 ]; then
    ray start --address="$head" --num-cpus=CPUS --block || true    # until the head is gone
    exit 0
fi
ray start --head --port={PORT} --num-cpus=CPUS --include-dashboard=false --block &
ray=$!
trap 'kill "$ray"' EXIT
RAY_ADDRESS="$head" sh infra/job.sh
"""


def task(target: SkyPilot, name: str, image: str) -> Manifest:
    """The mapping that `sky jobs launch` reads. A machine that is taken away is replaced, and the run goes on from its state."""
    have = target.resources
    resources: Manifest = {
        "infra": target.infra,
        "cpus": f"{have.cpus}+",
        "memory": f"{_gigabytes(have.memory)}+",
        "image_id": f"docker:{image}",
        "use_spot": target.use_spot,
        "job_recovery": {"strategy": "FAILOVER", "max_restarts_on_errors": 2},
    }
    if target.accelerator:
        resources["accelerators"] = f"{target.accelerator}:{have.gpus}"
    if target.priority:
        resources["priority"] = target.priority.value
    return {
        "name": name,
        "num_nodes": have.workers,
        "resources": resources,
        "volumes": {target.storage.path: target.volume},
        "envs": {"GANPIPE_WORKSPACE": target.storage.path, "RAY_AUTH_MODE": "token"},
        "secrets": dict.fromkeys(["RAY_AUTH_TOKEN", *target.secrets]),  # null: taken from the environment of who launches
        "run": RUN.replace("CPUS", str(have.cpus)),
    }


def _gigabytes(quantity: str) -> int:
    """Rounded up; SkyPilot counts whole ones."""
    number, unit = int(quantity[:-2]), quantity[-2:]
    return {"Mi": -(-number // 1024), "Gi": number, "Ti": 1024 * number}[unit]
