"""The PyTorch side of bench/full-size.ts: the same denoiser in eager mode (unet_torch.py, sd3_torch.py).

    python3 bench/full_size_torch.py '<settings as JSON, see SideSettings of full-size-side.ts>'

Says how far its output is from the example's, then does one piece of work for each line on standard input and answers
with a line of JSON.
"""

import json
import os
import sys
import time

import torch
from safetensors.torch import load_file

from sd3_torch import SD3Transformer
from unet_torch import LoraLinear, UNet

settings = json.loads(sys.argv[1])
folder, device = settings["folder"], torch.device(settings["device"])
dtype = getattr(torch, settings["dtype"])
# On NVIDIA's GPUs PyTorch's convolutions of float32 keep 10 bits unless told otherwise; the other side's keep all 23.
torch.backends.cudnn.allow_tf32 = False


def peak(reset=False):
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


if settings["checkpointing"]:
    raise SystemExit("Expected no --checkpointing with --python: this side has none")
part, model = ("transformer", SD3Transformer) if os.path.isdir(f"{folder}/transformer") else ("unet", UNet)
with torch.device("meta"):
    denoiser = model(json.load(open(f"{folder}/{part}/config.json")))
denoiser.load_state_dict(load_file(f"{folder}/{part}/diffusion_pytorch_model.safetensors"), assign=True)
denoiser = denoiser.to(device=device, dtype=dtype, memory_format=torch.channels_last).requires_grad_(False)

io = {name: x.to(device) for name, x in load_file(settings["example"]).items()}
scale = 5
latents = io["latents"].to(dtype)
rows = settings["images"]
text = torch.cat([io["negative"], io["text"]]).to(dtype)
timesteps = io["timestep"].repeat(2 * rows)
added = ()
if "pooled" in io:
    added = (torch.cat([io["negativePooled"], io["pooled"]]).to(dtype),)
if "pooled" in io and part == "unet":
    side = latents.shape[-1] * 8
    added += (torch.tensor([[side, side, 0, 0, side, side]] * 2 * rows, device=device),)


def predict():
    x = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
    without, with_text = denoiser(x, timesteps, text, *added).float().chunk(2)
    return without + scale * (with_text - without)


def forward():
    with torch.no_grad():
        predict()


optimizer = None


def train():
    global optimizer
    if optimizer is None:
        layers = [module for module in denoiser.modules() if isinstance(module, LoraLinear)]
        for layer in layers:
            a = torch.randn(4, layer.in_features, device=device, requires_grad=True)
            layer.lora = (a, torch.zeros(layer.out_features, 4, device=device, requires_grad=True))
        optimizer = torch.optim.AdamW([parameter for layer in layers for parameter in layer.lora], lr=1e-4)
    log_prob = -(predict() - io["latents"]).square().mean()
    (-(log_prob - log_prob.detach()).exp()).backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1)
    optimizer.step()
    optimizer.zero_grad()


with torch.no_grad():
    error = ((predict() - io["output"]).abs().max() / io["output"].abs().max()).item()
print(json.dumps({"version": torch.__version__, "error": error}), flush=True)
for line in sys.stdin:
    peak(reset=True)
    start = time.perf_counter()
    {"forward": forward, "train": train}[line.strip()]()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak()}), flush=True)
