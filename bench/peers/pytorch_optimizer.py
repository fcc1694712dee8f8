"""Milliseconds of a step of torch.optim's OPTIMIZER over one matrix of 768 x 3072, the fastest of its forms.

usage: pytorch_optimizer.py OPTIMIZER THREADS
"""
import json
import sys
import time

import torch

name, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
ARGUMENTS = {"SGD": dict(lr=1e-6, momentum=0.9, nesterov=True), "Adafactor": dict(lr=1e-6),
             "Muon": dict(lr=1e-6, momentum=0.9)}.get(name, dict(lr=1e-6))
FORMS = {"for-loop": dict(foreach=False), "foreach": dict(foreach=True), "fused": dict(fused=True)}


def milliseconds(form):
    param = torch.nn.Parameter(torch.full((768, 3072), 0.5))
    param.grad = 0.01 * torch.arange(768 * 3072).remainder(17).sub(8).float().view(768, 3072)
    optimizer = getattr(torch.optim, name)([param], **ARGUMENTS, **form)
    times = []
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < 0.3:
        start = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - start)
    times = sorted(times[2:])
    return 1e3 * times[len(times) // 2]


best = None
for label, form in (FORMS | {"plain": {}}).items():
    try:
        found = milliseconds(form)
    except (TypeError, RuntimeError):
        continue  # it has no such form
    if best is None or found < best[0]:
        best = (found, label)
print(json.dumps(dict(ms=best[0], form=f"{name}, {best[1]}", torch=torch.__version__)))
