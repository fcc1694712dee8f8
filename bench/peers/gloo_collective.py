"""torch.distributed over Gloo, float32, as bench/comm.py times furrow: gloo_collective.py RANK RANKS STORE_FILE OPERATION.

The operation is all_reduce (in place), reduce_scatter or all_gather; sizes are those of the whole buffer.  One line of JSON per
size from rank 0."""
import os
import sys
import time

import torch
import torch.distributed as dist

SIZES = [8, 64, 512, 4096, 16384, 65536, 262144, 1 << 20, 4 << 20, 16 << 20, 64 << 20]


def call_of(operation, size, ranks):
    part = torch.ones(max(1, size // 4 // ranks))  # written once: pages that nobody wrote are all one page of zeros
    whole = torch.ones(part.numel() * ranks)
    data = torch.ones(size // 4)
    return {"all_reduce": lambda: dist.all_reduce(data),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
            "all_gather": lambda: dist.all_gather_into_tensor(whole, part)}[operation]


def measure(call, size):
    calls = max(5, min(300, (64 << 20) // size))
    us = []
    for i in range(-3, calls):
        begin = time.perf_counter()
        call()
        if i >= 0:
            us.append((time.perf_counter() - begin) * 1e6)
    slowest = torch.tensor(us)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return sorted(slowest.tolist())


rank, ranks, store, operation = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
for size in SIZES:
    us = measure(call_of(operation, size, ranks), size)
    if rank == 0:
        print(f'{{"bytes": {size}, "p50_us": {us[len(us) // 2]:.3f}, "p10_us": {us[len(us) // 10]:.3f}}}', flush=True)
dist.destroy_process_group()
