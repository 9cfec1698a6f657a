/**
 * A process of its own for test/vae-tiling.test.ts, because only a process has a peak: decodes a picture of one tile, then
 * a large one, and prints by how many bytes the second raised the peak.
 *
 *     node vae-peak.js whole|tiled attention|plain <latent side>
 */
import { AutoencoderKL } from "../../src/models/index.js";
import { Generator, noGrad, randn } from "../../src/torch/index.js";

const [way, attention, side] = process.argv.slice(2);
const generator = new Generator(0);
const config = {
  block_out_channels: [16, 32],
  norm_num_groups: 4,
  sample_size: 64,
  mid_block_add_attention: attention === "attention",
};
const vae = AutoencoderKL.fromConfig(config, { generator });
if (way === "tiled") vae.tiling = {};

function peakAfterDecoding(size: number): number {
  const latents = randn([1, 4, size, size], { generator });
  noGrad(() => vae.decode(latents)).dispose();
  return process.resourceUsage().maxRSS * 1024;
}

const before = peakAfterDecoding(32);
console.log(peakAfterDecoding(Number(side)) - before);
