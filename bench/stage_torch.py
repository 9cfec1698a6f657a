"""One stage of training in plain PyTorch, as well as it is usually done: the other side of bench/stage.ts.

UNet, VAE decoder and CLIP's image tower are channels-last and read the same safetensors; roots and branches are batches
of one process; LoRA, AdamW and the clipped objective are the same; so are all counts, which come as a line of JSON on
standard input for every stage. Answers with a line of JSON: the seconds of sampling, scoring and training.

Text states and CLIP's text features come from the other side: both are taken once a run.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from unet_torch import Holder, LoraLinear, UNet


class VaeResnet(nn.Module):
    def __init__(self, cin, cout, groups):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, cin, 1e-6)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, cout, 1e-6)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class VaeAttention(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        b, c, height, width = x.shape
        h = self.group_norm(x).permute(0, 2, 3, 1).reshape(b, 1, height * width, c)
        h = self.to_out[0](F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h)))
        return h.reshape(b, height, width, c).permute(0, 3, 1, 2) + x


class VaeDecoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        channels, groups = config["block_out_channels"][::-1], config["norm_num_groups"]
        latents = config["latent_channels"]
        self.scale = config["scaling_factor"]
        self.post_quant_conv = (
            nn.Conv2d(latents, latents, 1) if config.get("use_post_quant_conv", True) else nn.Identity()
        )
        self.decoder = Holder(
            conv_in=nn.Conv2d(latents, channels[0], 3, padding=1),
            mid_block=Holder(resnets=nn.ModuleList([VaeResnet(channels[0], channels[0], groups) for _ in range(2)])),
            up_blocks=nn.ModuleList(),
            conv_norm_out=nn.GroupNorm(groups, channels[-1], 1e-6),
            conv_out=nn.Conv2d(channels[-1], config["out_channels"], 3, padding=1),
        )
        if config.get("mid_block_add_attention", True):
            self.decoder.mid_block.attentions = nn.ModuleList([VaeAttention(channels[0], groups)])
        for i, width in enumerate(channels):
            before = channels[max(i - 1, 0)]
            layers = range(config["layers_per_block"] + 1)
            block = Holder(
                resnets=nn.ModuleList([VaeResnet(before if j == 0 else width, width, groups) for j in layers])
            )
            if i < len(channels) - 1:
                block.upsamplers = nn.ModuleList([Holder(conv=nn.Conv2d(width, width, 3, padding=1))])
            self.decoder.up_blocks.append(block)

    def decode(self, latents):
        """Latents divided by the scaling factor -> images in [-1, 1], but for overshoot."""
        decoder = self.decoder
        x = decoder.conv_in(self.post_quant_conv(latents))
        x = decoder.mid_block.resnets[0](x)
        if hasattr(decoder.mid_block, "attentions"):
            x = decoder.mid_block.attentions[0](x)
        x = decoder.mid_block.resnets[1](x)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = resnet(x)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return decoder.conv_out(F.silu(decoder.conv_norm_out(x)))

    def forward(self, latents):
        return (self.decode(latents / self.scale) / 2 + 0.5).clamp(0, 1)


class ClipLayer(nn.Module):
    def __init__(self, dim, inner, heads, gelu):
        super().__init__()
        self.heads, self.gelu = heads, gelu
        self.self_attn = Holder(**{name: nn.Linear(dim, dim) for name in ("q_proj", "k_proj", "v_proj", "out_proj")})
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = Holder(fc1=nn.Linear(dim, inner), fc2=nn.Linear(inner, dim))

    def forward(self, x):
        attn, h = self.self_attn, self.layer_norm1(x)
        split = lambda t: t.view(t.shape[0], -1, self.heads, t.shape[-1] // self.heads).transpose(1, 2)
        h = F.scaled_dot_product_attention(split(attn.q_proj(h)), split(attn.k_proj(h)), split(attn.v_proj(h)))
        x = x + attn.out_proj(h.transpose(1, 2).reshape(x.shape))
        h = self.mlp.fc1(self.layer_norm2(x))
        return x + self.mlp.fc2(F.gelu(h) if self.gelu else h * torch.sigmoid(1.702 * h))


class ClipVision(nn.Module):
    def __init__(self, config, preprocessor):
        super().__init__()
        vision = config["vision_config"]
        dim, self.side = vision["hidden_size"], vision["image_size"]
        statistics = lambda key: torch.tensor(preprocessor[key]).view(1, 3, 1, 1)
        self.mean, self.std = statistics("image_mean"), statistics("image_std")
        tokens = (self.side // vision["patch_size"]) ** 2 + 1
        layer = lambda: ClipLayer(
            dim, vision["intermediate_size"], vision["num_attention_heads"], vision["hidden_act"] == "gelu"
        )
        self.vision_model = Holder(
            embeddings=Holder(
                patch_embedding=nn.Conv2d(3, dim, vision["patch_size"], stride=vision["patch_size"], bias=False),
                position_embedding=nn.Embedding(tokens, dim),
                class_embedding=nn.Parameter(torch.empty(dim)),
            ),
            pre_layrnorm=nn.LayerNorm(dim),
            encoder=Holder(layers=nn.ModuleList([layer() for _ in range(vision["num_hidden_layers"])])),
            post_layernorm=nn.LayerNorm(dim),
        )
        self.visual_projection = nn.Linear(dim, config["projection_dim"], bias=False)

    def forward(self, images):
        pixels = (images * 255).round().clamp(0, 255)
        if pixels.shape[-1] != self.side:
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True).round().clamp(0, 255)
        model, embeddings = self.vision_model, self.vision_model.embeddings
        patches = embeddings.patch_embedding((pixels / 255 - self.mean) / self.std).flatten(2).transpose(1, 2)
        first = embeddings.class_embedding.expand(len(images), 1, -1)
        x = model.pre_layrnorm(torch.cat([first, patches], 1) + embeddings.position_embedding.weight)
        for layer in model.encoder.layers:
            x = layer(x)
        return F.normalize(self.visual_projection(model.post_layernorm(x[:, 0])), dim=-1)


def load(model, folder, stem):
    """The weights of a folder that this model has a place for, in float32 and channels-last."""
    stored = load_file(f"{folder}/{stem}.safetensors")
    model.load_state_dict({key: stored[key].float() for key in model.state_dict()})
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


def read(*path):
    with open("/".join(path)) as file:
        return json.load(file)


class Stage:
    def __init__(self, setup, io):
        model, clip = setup["model"], setup["clip"]
        self.setup, self.io = setup, io
        self.unet = load(UNet(read(model, "unet", "config.json")), f"{model}/unet", "diffusion_pytorch_model")
        self.vae = load(VaeDecoder(read(model, "vae", "config.json")), f"{model}/vae", "diffusion_pytorch_model")
        vision = ClipVision(read(clip, "config.json"), read(clip, "preprocessor_config.json"))
        self.clip = load(vision, clip, "model")
        self.clock = time.perf_counter if setup["clock"] == "wall" else time.process_time

    def learn(self):
        """Adds the LoRA and its optimiser."""
        self.parameters = []
        for module in self.unet.modules():
            if isinstance(module, LoraLinear):
                bound = module.in_features**-0.5
                a = torch.empty(self.setup["rank"], module.in_features).uniform_(-bound, bound).requires_grad_()
                b = torch.zeros(module.out_features, self.setup["rank"], requires_grad=True)
                module.lora = (a, b)
                self.parameters += [a, b]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.setup["lr"], weight_decay=1e-4)

    def predict(self, x, timesteps, rows):
        """Noise of latents whose text is that of these rows; the last row is the negative prompt's."""
        text, scale = self.io["text"][rows], self.setup["guidanceScale"]
        if not scale > 1:
            return self.unet(x, timesteps, text)
        negative = self.io["text"][-1:].expand_as(text)
        both = self.unet(torch.cat([x, x]), torch.cat([timesteps, timesteps]), torch.cat([negative, text]))
        without, with_text = both.chunk(2)
        return without + scale * (with_text - without)

    def transition(self, x, timesteps, rows, previous=None):
        """A DDIM step with eta 1: x_{t-1}, drawn unless given, and the mean of its log-density."""
        epsilon = self.predict(x.contiguous(memory_format=torch.channels_last), timesteps, rows)
        alphas = self.io["alphas_cumprod"]
        column = lambda values: values.view(-1, 1, 1, 1)
        alpha = column(alphas[timesteps])
        alpha_prev = column(alphas[(timesteps - 1000 // self.setup["steps"]).clamp(min=0)])
        sigma = ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)).sqrt()
        x0 = (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
        mean = alpha_prev.sqrt() * x0 + (1 - alpha_prev - sigma**2).sqrt() * epsilon
        if previous is None:
            previous = mean + sigma * torch.randn_like(mean)
        log_prob = -((previous - mean) ** 2) / (2 * sigma**2) - sigma.log() - math.log(math.sqrt(2 * math.pi))
        return previous, log_prob.mean(dim=(1, 2, 3))

    @torch.no_grad()
    def denoise(self, x, rows, steps, record=None):
        for i, t in enumerate(steps):
            x, log_prob = self.transition(x, torch.full((len(x),), t), rows)
            if record is not None:
                record[0][:, i + 1] = x
                record[1][:, i] = log_prob
        return x

    def sample(self, rows, interval):
        setup, steps = self.setup, self.setup["timesteps"]
        split, size, k = len(steps) - interval, setup["batchSize"], setup["branches"]
        roots = [self.denoise(torch.randn(len(r), *setup["shape"]), r, steps[:split]) for r in rows.split(size)]
        rows = rows.repeat_interleave(k)
        latents = torch.empty(len(rows), interval + 1, *setup["shape"])
        log_probs = torch.empty(len(rows), interval)
        latents[:, 0] = torch.cat(roots).repeat_interleave(k, 0)
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            self.denoise(latents[some, 0].clone(), rows[some], steps[split:], (latents[some], log_probs[some]))
        return rows, latents, log_probs

    @torch.no_grad()
    def score(self, rows, latents):
        scores = []
        for some, own in zip(latents[:, -1].split(self.setup["rewardBatch"]), rows.split(self.setup["rewardBatch"])):
            images = self.vae(some.contiguous(memory_format=torch.channels_last))
            scores += (self.clip(images) * self.io["features"][own]).sum(-1).tolist()
        return scores

    def train(self, rows, latents, log_probs, updates):
        """updates: how many pairs each optimiser step has."""
        timesteps = torch.tensor(self.setup["timesteps"][-log_probs.shape[1] :])
        for pairs in updates:
            samples = torch.randint(len(rows), (pairs,))
            steps = torch.randint(len(timesteps), (pairs,))
            advantages = torch.randn(pairs)
            for start in range(0, pairs, self.setup["microBatch"]):
                some = slice(start, start + self.setup["microBatch"])
                at, step, advantage = samples[some], steps[some], advantages[some]
                _, log_prob = self.transition(latents[at, step], timesteps[step], rows[at], latents[at, step + 1])
                ratio = (log_prob - log_probs[at, step]).exp()
                loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.9, 1.1)).mean() * (len(at) / pairs)
                loss.backward()
                loss.item()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def run(self, interval, updates):
        """A whole stage: seconds of its phases."""
        rows = torch.randint(len(self.io["features"]), (self.setup["roots"],))
        marks = [self.clock()]
        rows, latents, log_probs = self.sample(rows, interval)
        marks.append(self.clock())
        self.score(rows, latents)
        marks.append(self.clock())
        self.train(rows, latents, log_probs, updates)
        marks.append(self.clock())
        return dict(zip(("sample", "score", "train"), (b - a for a, b in zip(marks, marks[1:]))))

    @torch.no_grad()
    def errors(self):
        """How far predictions and scores are from the other side's."""
        io = self.io
        rows = torch.zeros(len(io["sample"]), dtype=torch.int64)
        output = self.predict(io["sample"], torch.full((len(rows),), self.setup["timesteps"][0]), rows)
        scores = torch.tensor(self.score(rows, io["sample"].unsqueeze(1)))
        return {
            "prediction": ((output - io["output"]).abs().max() / io["output"].abs().max()).item(),
            "score": (scores - io["scores"]).abs().max().item(),
        }


def main():
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(setup["threads"])
    stage = Stage(setup, load_file(setup["io"]))
    print(json.dumps({"version": torch.__version__, "errors": stage.errors()}), flush=True)
    stage.learn()
    for line in sys.stdin:
        print(json.dumps(stage.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
