"""torch.distributed's all_reduce over Gloo, float32 in place: gloo_all_reduce.py RANK RANKS STORE_FILE.

One line of JSON per size from rank 0, timed as bench/comm.py times furrow."""
import os
import sys
import time

import torch
import torch.distributed as dist

SIZES = [8, 64, 512, 4096, 16384, 65536, 262144, 1 << 20, 4 << 20, 16 << 20, 64 << 20]


def measure(size):
    data = torch.zeros(size // 4)
    calls = max(5, min(300, (64 << 20) // size))
    us = []
    for i in range(-3, calls):
        begin = time.perf_counter()
        dist.all_reduce(data)
        if i >= 0:
            us.append((time.perf_counter() - begin) * 1e6)
    slowest = torch.tensor(us)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return sorted(slowest.tolist())


rank, ranks, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
for size in SIZES:
    us = measure(size)
    if rank == 0:
        print(f'{{"bytes": {size}, "p50_us": {us[len(us) // 2]:.3f}, "p10_us": {us[len(us) // 10]:.3f}}}', flush=True)
dist.destroy_process_group()
