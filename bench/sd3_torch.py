"""SD3Transformer2DModel in plain PyTorch, as diffusers runs it: the other side of bench/full-size.ts for sd35."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from unet_torch import Holder, LoraLinear


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        y = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return y.to(self.weight.dtype) * self.weight


class JointAttention(nn.Module):
    """Text is "joint", "read" (it has no output) or "none"; only attention of both is adapted by a LoRA."""

    def __init__(self, dim, heads, qk_norm, text):
        super().__init__()
        self.heads, self.text = heads, text
        linear = nn.Linear if text == "none" else LoraLinear
        names = ["to_q", "to_k", "to_v"] + ([] if text == "none" else ["add_q_proj", "add_k_proj", "add_v_proj"])
        for name in names:
            setattr(self, name, linear(dim, dim))
        self.to_out = nn.ModuleList([linear(dim, dim)])
        if text == "joint":
            self.to_add_out = linear(dim, dim)
        norm = lambda: RMSNorm(dim // heads) if qk_norm else nn.Identity()
        self.norm_q, self.norm_k = norm(), norm()
        if text != "none":
            self.norm_added_q, self.norm_added_k = norm(), norm()

    def forward(self, image, context=None):
        split = lambda t: t.view(t.shape[0], -1, self.heads, t.shape[-1] // self.heads).transpose(1, 2)
        q, k, v = self.norm_q(split(self.to_q(image))), self.norm_k(split(self.to_k(image))), split(self.to_v(image))
        if context is not None:
            added = (
                self.norm_added_q(split(self.add_q_proj(context))),
                self.norm_added_k(split(self.add_k_proj(context))),
                split(self.add_v_proj(context)),
            )
            q, k, v = (torch.cat(pair, dim=2) for pair in zip((q, k, v), added))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = image.shape[1]
        text = self.to_add_out(x[:, tokens:]) if self.text == "joint" else None
        return self.to_out[0](x[:, :tokens]), text


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.ModuleList([Holder(proj=nn.Linear(dim, 4 * dim)), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class AdaptiveNorm(nn.Module):
    """The vectors of a block's norms, each [B, 1, dim], from the embedding of timestep and text."""

    def __init__(self, dim, count):
        super().__init__()
        self.count, self.linear = count, nn.Linear(dim, count * dim)

    def forward(self, embedding):
        return self.linear(F.silu(embedding))[:, None].chunk(self.count, dim=-1)


def modulated(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    def __init__(self, dim, heads, qk_norm, dual, last):
        super().__init__()
        self.last = last
        self.norm1 = AdaptiveNorm(dim, 9 if dual else 6)
        self.norm1_context = AdaptiveNorm(dim, 2 if last else 6)
        self.attn = JointAttention(dim, heads, qk_norm, "read" if last else "joint")
        self.attn2 = JointAttention(dim, heads, qk_norm, "none") if dual else None
        self.ff = FeedForward(dim)
        self.ff_context = None if last else FeedForward(dim)

    def forward(self, x, context, embedding):
        shift, scale, gate, shift_ff, scale_ff, gate_ff, *second = self.norm1(embedding)
        own = self.norm1_context(embedding)
        # A norm without a perceptron behind it gives the scale first.
        text = modulated(context, own[1], own[0]) if self.last else modulated(context, own[0], own[1])
        of_image, of_text = self.attn(modulated(x, shift, scale), text)
        attended = x + gate * of_image
        if self.attn2 is not None:
            attended = attended + second[2] * self.attn2(modulated(x, second[0], second[1]))[0]
        out = attended + gate_ff * self.ff(modulated(attended, shift_ff, scale_ff))
        if self.last:
            return out, None
        context = context + own[2] * of_text
        return out, context + own[5] * self.ff_context(modulated(context, own[3], own[4]))


class SD3Transformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        heads, depth = config["num_attention_heads"], config["num_layers"]
        dim, patch = heads * config["attention_head_dim"], config["patch_size"]
        self.patch, self.out_channels, self.side = patch, config["out_channels"], config["pos_embed_max_size"]
        conv = nn.Conv2d(config["in_channels"], dim, patch, stride=patch)
        self.pos_embed = Holder(proj=conv)
        self.pos_embed.register_buffer("pos_embed", torch.empty(1, self.side**2, dim))
        embedder = lambda inputs: Holder(linear_1=nn.Linear(inputs, dim), linear_2=nn.Linear(dim, dim))
        text = embedder(config["pooled_projection_dim"])
        self.time_text_embed = Holder(timestep_embedder=embedder(256), text_embedder=text)
        self.context_embedder = nn.Linear(config["joint_attention_dim"], dim)
        dual, norm = config.get("dual_attention_layers", []), config.get("qk_norm") is not None
        blocks = [Block(dim, heads, norm, i in dual, i == depth - 1) for i in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.norm_out = AdaptiveNorm(dim, 2)
        self.proj_out = nn.Linear(dim, patch**2 * self.out_channels)

    def embed(self, timesteps, pooled):
        rate = torch.exp(-math.log(10000) * torch.arange(128, device=pooled.device) / 128)
        angles = timesteps[:, None].float() * rate
        features = torch.cat([angles.cos(), angles.sin()], dim=-1).to(pooled.dtype)
        through = lambda layers, x: layers.linear_2(F.silu(layers.linear_1(x)))
        return through(self.time_text_embed.timestep_embedder, features) + through(
            self.time_text_embed.text_embedder, pooled
        )

    def forward(self, x, timesteps, context, pooled):
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        top, left = (self.side - rows) // 2, (self.side - columns) // 2
        places = self.pos_embed.pos_embed.view(self.side, self.side, -1)[top : top + rows, left : left + columns]
        tokens = self.pos_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = (tokens + places.reshape(1, rows * columns, -1)).to(x.dtype)
        embedding = self.embed(timesteps, pooled)
        context = self.context_embedder(context)
        for block in self.transformer_blocks:
            tokens, context = block(tokens, context, embedding)
        scale, shift = self.norm_out(embedding)
        patches = self.proj_out(modulated(tokens, shift, scale))
        patches = patches.reshape(len(x), rows, columns, self.patch, self.patch, self.out_channels)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(x), self.out_channels, *x.shape[2:])
