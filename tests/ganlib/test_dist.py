import pytest
import torch

from ganlib import dist


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
