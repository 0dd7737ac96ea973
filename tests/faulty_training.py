"""A small training for the resume doctor: numpy alone, and one planted fault in how it goes on.

faulty_training.py FOLDER [FAULT [ANYTHING [WORKERS]]]; ANYTHING: another training. It has one process, and says it were WORKERS.
"""

import io
import os
import sys
import time
from pathlib import Path

import numpy as np

STEPS, EVERY, IMAGES, BATCH = 40, 4, 24, 5


def main(folder: Path, fault: str = "", other: str = "", workers: str = "1") -> None:
    data = np.linspace(-1, 1, IMAGES * 3).reshape(IMAGES, 3)
    rng = np.random.Generator(np.random.MT19937(8 if other else 7))
    state = {
        "step": np.array(0),
        "schedule.lr": np.array(0.05),
        "sampler.order": rng.permutation(IMAGES),
        "sampler.position": np.array(0),
        "model.first": rng.normal(size=(3, 4)),
        "model.second": rng.normal(size=(4, 1)),
        "optimizer.first": np.zeros((3, 4)),
        "optimizer.second": np.zeros((4, 1)),
    }
    state |= {f"ema.{name}": state[f"model.{name}"].copy() for name in ("first", "second")}
    path = folder / "last.npz"
    if path.exists():
        saved = dict(np.load(path))
        left_out = {
            "weights": "model.second",
            "optimizer": "optimizer.",
            "average": "ema.",
            "sampler": "sampler.",
            "schedule": "schedule.",
        }.get(fault, "nothing")
        state |= {name: value for name, value in saved.items() if name in state and not name.startswith(left_out)}
        if fault == "average":
            state |= {f"ema.{name}": state[f"model.{name}"].copy() for name in ("first", "second")}
        if fault == "off by one":
            state["step"] = state["step"] - 1
        if fault not in ("RNG", "RNG not saved"):
            told = {"key": saved["rng.key"], "pos": int(saved["rng.pos"])}
            rng.bit_generator.state = {"bit_generator": "MT19937", "state": told}
        if fault == "shards of one" and workers == "2":
            state["sampler.position"] = state["sampler.position"] // 2
    if fault == "seeds of two" and workers == "2":
        rng = np.random.Generator(np.random.MT19937(9))
    while state["step"] < STEPS:
        step(state, data, rng)
        if state["step"] % EVERY == 0:
            save(path, state, rng, fault)
        time.sleep(0.004)
    save(path, state, rng, fault)


def step(state: dict, data: np.ndarray, rng: np.random.Generator) -> None:
    if state["sampler.position"] + BATCH > IMAGES:
        state["sampler.order"], state["sampler.position"] = rng.permutation(IMAGES), np.array(0)
    at = int(state["sampler.position"])
    x = data[state["sampler.order"][at : at + BATCH]] + 0.1 * rng.normal(size=(BATCH, 3))
    hidden = np.tanh(x @ state["model.first"])
    error = hidden @ state["model.second"] - x.sum(1, keepdims=True)
    slopes = {"second": hidden.T @ error / BATCH}
    slopes["first"] = x.T @ (error @ state["model.second"].T * (1 - hidden**2)) / BATCH
    for name, slope in slopes.items():
        state[f"optimizer.{name}"] = 0.9 * state[f"optimizer.{name}"] + slope
        state[f"model.{name}"] = state[f"model.{name}"] - state["schedule.lr"] * state[f"optimizer.{name}"]
        state[f"ema.{name}"] = 0.9 * state[f"ema.{name}"] + 0.1 * state[f"model.{name}"]
    state["sampler.position"], state["schedule.lr"], state["step"] = np.array(at + BATCH), state["schedule.lr"] * 0.99, state["step"] + 1


def save(path: Path, state: dict, rng: np.random.Generator, fault: str) -> None:
    told = rng.bit_generator.state["state"]
    random = {} if fault == "RNG not saved" else {"rng.key": told["key"], "rng.pos": np.array(told["pos"])}
    whole = io.BytesIO()
    np.savez(whole, **state, **random)
    data = whole.getvalue()
    if fault == "torn":
        with path.open("wb") as file:
            file.write(data[:500])
            file.flush()
            time.sleep(0.15)
            file.write(data[500:])
        return
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
