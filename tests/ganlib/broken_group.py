"""One process of a group that breaks: broken_group.py RANK PROCESSES STORE HOW. Prints the gradient of each step, and why it ended.

HOW: `stalls`: the last process sleeps for longer than the group's timeout. `is closed`: meanwhile somebody closes the others' groups, as Ray does.
"""

import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as td

from ganlib import dist

rank, processes, store, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
timeout = 2.0 if how == "stalls" else 10.0
td.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes, timeout=timedelta(seconds=timeout))
network = torch.nn.Linear(1, 1, bias=False)
replica = dist.Replica(network, logical_workers=processes)
try:
    for step in range(4):
        if step == 2:
            if rank == processes - 1:
                time.sleep(4.0)
            elif how == "is closed":
                threading.Timer(0.5, td.destroy_process_group).start()
        replica.start()
        replica.before_backward(0)
        with replica.synchronised(is_last_shard=True):
            replica.trained(torch.full((1, 1), float(rank + 1))).sum().backward()
        replica.finish()
        print("gradient", network.weight.grad.item(), flush=True)
    print("is main" if dist.is_main() else "is another", flush=True)
except (RuntimeError, ValueError) as problem:  # a ValueError is torch's own for a group that is closed in the middle of a call
    print("ended:", type(problem).__name__, flush=True)
