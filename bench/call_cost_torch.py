"""The PyTorch side of bench/call-cost.ts: answers each line on standard input with the microseconds of one call."""

import json
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
a = torch.ones(2, 2)
b = torch.ones(2, 2)
w = torch.ones(2, 2, requires_grad=True)
operands = {"no gradient": (a, b), "with gradient": (w, b)}


def measure(x, y, calls):
    with torch.set_grad_enabled(x.requires_grad):
        start = time.perf_counter()
        for _ in range(calls):
            x + y
        return (time.perf_counter() - start) / calls * 1e6


print(json.dumps(torch.__version__), flush=True)
for line in sys.stdin:
    name, calls = line.rsplit(" ", 1)
    print(measure(*operands[name], int(calls)), flush=True)
