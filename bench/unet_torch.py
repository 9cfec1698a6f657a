"""UNet2DConditionModel in plain PyTorch, as diffusers runs it: channels-last, scaled_dot_product_attention.

Two uses. It is the other side of bench/unet.ts, which starts it: loads the same safetensors, and for every line on its
standard input ("forward 5") runs that many passes and prints their seconds. And it is where the golden vectors that
test/fixtures/make.py writes come from, once it has given those of sd1 and sdxl.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Resnet(nn.Module):
    def __init__(self, cin, cout, temb, groups, eps):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, cin, eps)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time_emb_proj = nn.Linear(temb, cout)
        self.norm2 = nn.GroupNorm(groups, cout, eps)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class LoraLinear(nn.Linear):
    lora = None

    def forward(self, x):
        y = super().forward(x)
        if self.lora is None:
            return y
        # As in PEFT, A and B are float32 whatever the layer's dtype.
        down, up = self.lora
        return y + F.linear(F.linear(x.to(down.dtype), down), up).to(y.dtype)


class Attention(nn.Module):
    def __init__(self, dim, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = LoraLinear(dim, dim, bias=False)
        self.to_k = LoraLinear(context, dim, bias=False)
        self.to_v = LoraLinear(context, dim, bias=False)
        self.to_out = nn.ModuleList([LoraLinear(dim, dim)])

    def forward(self, x, context=None):
        context = x if context is None else context
        split = lambda t: t.view(t.shape[0], -1, self.heads, t.shape[-1] // self.heads).transpose(1, 2)
        q, k, v = split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class GEGLU(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Linear(dim, dim * 8)

    def forward(self, x):
        h, gate = self.proj(x).chunk(2, dim=-1)
        return h * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(dim), nn.Identity(), nn.Linear(dim * 4, dim)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    def __init__(self, dim, context, heads):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn1, self.attn2 = Attention(dim, dim, heads), Attention(dim, context, heads)
        self.ff = FeedForward(dim)

    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, dim, context, heads, layers, groups, linear):
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, dim, 1e-6)
        make = (lambda: nn.Linear(dim, dim)) if linear else (lambda: nn.Conv2d(dim, dim, 1))
        self.proj_in = make()
        self.transformer_blocks = nn.ModuleList([Block(dim, context, heads) for _ in range(layers)])
        self.proj_out = make()

    def forward(self, x, context):
        b, c, height, width = x.shape
        h = self.norm(x)
        if not self.linear:
            h = self.proj_in(h)
        h = h.permute(0, 2, 3, 1).reshape(b, height * width, c)
        if self.linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.linear:
            h = self.proj_out(h)
        h = h.reshape(b, height, width, c).permute(0, 3, 1, 2)
        if not self.linear:
            h = self.proj_out(h)
        return h + x


class Holder(nn.Module):
    """A bag of named children, for checkpoint keys such as `downsamplers.0.conv`."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        channels, n = config["block_out_channels"], len(config["block_out_channels"])
        each = lambda key: config[key] if isinstance(config[key], list) else [config[key]] * n
        layers, heads, depth = (
            each("layers_per_block"),
            each("attention_head_dim"),
            each("transformer_layers_per_block"),
        )
        # Of the up blocks, from the lowest resolution up; an entry may be a list, a number for each of its layers.
        up_depth = config.get("reverse_transformer_layers_per_block") or depth[::-1]
        deep = lambda entry, layer: entry[layer] if isinstance(entry, list) else entry
        context, temb = config["cross_attention_dim"], config.get("time_embedding_dim") or channels[0] * 4
        groups, eps = config["norm_num_groups"], config["norm_eps"]
        resnet = lambda cin, cout: Resnet(cin, cout, temb, groups, eps)
        attention = lambda i, blocks: Transformer(
            channels[i], context, heads[i], blocks, groups, config["use_linear_projection"]
        )
        self.first = channels[0]
        self.freq_shift, self.flip_sin_to_cos = config["freq_shift"], config["flip_sin_to_cos"]
        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = Holder(linear_1=nn.Linear(channels[0], temb), linear_2=nn.Linear(temb, temb))
        if config.get("addition_embed_type") == "text_time":
            self.size_features = config["addition_time_embed_dim"]
            inputs = config["projection_class_embeddings_input_dim"]
            self.add_embedding = Holder(linear_1=nn.Linear(inputs, temb), linear_2=nn.Linear(temb, temb))
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, kind in enumerate(config["down_block_types"]):
            cin = channels[max(i - 1, 0)]
            block = Holder(
                resnets=nn.ModuleList([resnet(cin if j == 0 else channels[i], channels[i]) for j in range(layers[i])])
            )
            if kind.startswith("Cross"):
                block.attentions = nn.ModuleList([attention(i, deep(depth[i], j)) for j in range(layers[i])])
            if i < n - 1:
                conv = nn.Conv2d(channels[i], channels[i], 3, stride=2, padding=1)
                block.downsamplers = nn.ModuleList([Holder(conv=conv)])
            self.down_blocks.append(block)
        middle = config["mid_block_type"]
        self.mid_block = middle and Holder(
            resnets=nn.ModuleList([resnet(channels[-1], channels[-1]) for _ in range(2 if "Cross" in middle else 1)]),
            attentions=nn.ModuleList([attention(n - 1, deep(depth[-1], 0))] if "Cross" in middle else []),
        )
        for j, kind in enumerate(config["up_block_types"]):
            i = n - 1 - j
            below, above = channels[min(i + 1, n - 1)], channels[max(i - 1, 0)]
            skips = [channels[i]] * layers[i] + [above]
            inputs = [(below if k == 0 else channels[i]) + skip for k, skip in enumerate(skips)]
            block = Holder(resnets=nn.ModuleList([resnet(cin, channels[i]) for cin in inputs]))
            if kind.startswith("Cross"):
                block.attentions = nn.ModuleList([attention(i, deep(up_depth[j], k)) for k in range(len(inputs))])
            if i > 0:
                block.upsamplers = nn.ModuleList([Holder(conv=nn.Conv2d(channels[i], channels[i], 3, padding=1))])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps)
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

    def sinusoids(self, values, features):
        half = features // 2
        index = torch.arange(half, dtype=torch.float32, device=values.device)
        rate = torch.exp(-math.log(10000) * index / (half - self.freq_shift))
        angles = values[:, None].float() * rate[None]
        parts = [angles.cos(), angles.sin()] if self.flip_sin_to_cos else [angles.sin(), angles.cos()]
        return torch.cat(parts, dim=-1).to(self.conv_in.weight.dtype)

    def forward(self, x, timesteps, context, text_embeds=None, time_ids=None):
        features = self.sinusoids(timesteps, self.first)
        temb = self.time_embedding.linear_2(F.silu(self.time_embedding.linear_1(features)))
        if time_ids is not None:
            sizes = self.sinusoids(time_ids.flatten(), self.size_features).reshape(len(time_ids), -1)
            added = self.add_embedding.linear_1(torch.cat([text_embeds, sizes], dim=-1))
            temb = temb + self.add_embedding.linear_2(F.silu(added))
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(x, temb)
                if hasattr(block, "attentions"):
                    x = block.attentions[i](x, context)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0].conv(x)
                skips.append(x)
        if self.mid_block is not None:
            x = self.mid_block.resnets[0](x, temb)
            for attention, resnet in zip(self.mid_block.attentions, self.mid_block.resnets[1:]):
                x = resnet(attention(x, context), temb)
        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(torch.cat([x, skips.pop()], dim=1), temb)
                if hasattr(block, "attentions"):
                    x = block.attentions[i](x, context)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0].conv(F.interpolate(x, size=skips[-1].shape[2:], mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    clock = time.perf_counter if sys.argv[3] == "wall" else time.process_time
    torch.set_num_threads(threads)
    unet = UNet(json.load(open(f"{folder}/config.json")))
    unet.load_state_dict(load_file(f"{folder}/diffusion_pytorch_model.safetensors"))
    unet = unet.to(memory_format=torch.channels_last)
    io = load_file(f"{folder}/io.safetensors")
    sample = io["sample"].to(memory_format=torch.channels_last)

    def lora(on):
        for module in unet.modules():
            if isinstance(module, LoraLinear):
                a = torch.randn(4, module.in_features, requires_grad=True)
                b = torch.zeros(module.out_features, 4, requires_grad=True)
                module.lora = (a, b) if on else None

    def run(mode, passes):
        lora(mode == "lora")
        unet.requires_grad_(mode == "train")
        start = clock()
        for _ in range(passes):
            with torch.set_grad_enabled(mode != "forward"):
                output = unet(sample, io["timestep"], io["text"])
            if mode != "forward":
                output.square().mean().backward()
                for parameter in unet.parameters():
                    parameter.grad = None
        return clock() - start

    with torch.no_grad():
        error = (unet(sample, io["timestep"], io["text"]) - io["output"]).abs().max() / io["output"].abs().max()
    print(json.dumps({"version": torch.__version__, "error": error.item()}), flush=True)
    for line in sys.stdin:
        mode, passes = line.split()
        print(run(mode, int(passes)), flush=True)


if __name__ == "__main__":
    main()
