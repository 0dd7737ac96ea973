import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as td

from ganlib import dist

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("num_shards", [1, 2, 4, 8, 16])
def test_accumulation_is_the_tree_sum(num_shards):
    """Against the slow definition, bitwise, on numbers whose sum depends on the order."""
    draw = torch.Generator().manual_seed(num_shards)
    shards = [torch.randn(257, generator=draw) * 10 ** float(k % 5) for k in range(num_shards)]
    parameter = torch.nn.Parameter(torch.zeros(257))
    tree = dist.TreeAccumulator([parameter], num_shards=num_shards)
    tree.start()
    for index, shard in enumerate(shards):
        tree.before_backward(index)
        (parameter * shard).sum().backward()
    tree.finish()
    assert torch.equal(parameter.grad, dist.tree_sum(shards))
    if num_shards > 4:
        assert not torch.equal(parameter.grad, torch.stack(shards).sum(0))  # another order gives other bits: the test can fail


def test_a_lone_process_answers_too():
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    assert list(dist.logical_workers_here(4)) == [0, 1, 2, 3]
    assert dist.maximum([3, 0]) == [3, 0]
    dist.barrier()
    values = torch.arange(4.0)
    assert torch.equal(dist.gather_logical(values, logical_workers=4), values)


@pytest.mark.parametrize(("processes", "how"), [(2, "stalls"), (2, "is closed"), pytest.param(4, "stalls", marks=pytest.mark.slow)])
def test_nobody_goes_on_with_a_part_of_the_sum(tmp_path, processes, how):
    """Kills a hook that does not ask the exchange whether it failed: the process's own gradient stood for the sum, without a word."""
    program = Path(__file__).parent / "broken_group.py"
    started = [
        subprocess.Popen(
            [sys.executable, program, str(rank), str(processes), tmp_path / "store", how], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in started]
    whole = f"gradient {sum(range(1, processes + 1)):.1f}"
    for lines in said:
        assert lines[:2] == [whole, whole]
        assert set(lines[2:-1]) <= {whole}  # what was under way may still arrive
        assert lines[-1].startswith("ended"), said


def test_one_of_several_whose_group_is_gone_does_not_take_itself_for_the_only_one(tmp_path, monkeypatch):
    """Kills `world_size()` of 1 after Ray has closed the group of the workers that a hung one leaves: they trained on, and wrote checkpoints."""
    td.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    monkeypatch.setattr(td, "get_world_size", lambda: 2)
    assert dist.world_size() == 2
    td.destroy_process_group()
    try:
        for ask in (dist.world_size, dist.rank, dist.is_main, dist.barrier, lambda: dist.maximum([1])):
            with pytest.raises(dist.GroupLostError, match="group of 2 processes"):
                ask()
    finally:
        monkeypatch.undo()
        dist._group_size = 1
    assert dist.is_main()


def test_a_group_that_was_left_is_not_missed(tmp_path):
    td.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    assert dist.is_open()
    dist.close()
    assert (dist.world_size(), dist.is_main()) == (1, True)
