/**
 * Loaded before `b2` by workers-full.test.ts. Gradients go in buckets that are small enough for the tiny model to have nine,
 * and faults are where the environment asks for them.
 */
import { Policy, Trainer } from "../src/b2/index.js";
import { objectives } from "../src/b2/objectives/index.js";
import { limits } from "../src/b2/update/gradients.js";
import { Conv2d } from "../src/nn/index.js";
import { isGradEnabled, type Tensor } from "../src/torch/index.js";

Object.assign(limits, { gathered: 0, bucket: 100_000 });

/** From stage 1 on the loss of this prompt is NaN at this timestep. */
const [PROMPT, TIMESTEP] = ["a dog", 251];
let stage = 0;
let prompts: readonly string[] = [];

/* eslint-disable @typescript-eslint/unbound-method -- each is called with its object */
const { update } = Trainer.prototype;
const { conditioning } = Policy.prototype;
const { forward } = Conv2d.prototype;
const ppo = objectives.get("ppo");
type Loss = (batch: { readonly timesteps: readonly number[] }, options: unknown) => { readonly loss: Tensor };
const loss = ppo.loss as unknown as Loss;

Object.assign(Trainer.prototype, {
  update(this: Trainer, ...[trainSet]: Parameters<typeof update>) {
    ({ stage } = trainSet);
    return update.call(this, trainSet);
  },
});
Object.assign(Policy.prototype, {
  conditioning(this: Policy, ...[given, options]: Parameters<typeof conditioning>) {
    prompts = given;
    return conditioning.call(this, given, options);
  },
});
Object.assign(ppo, {
  loss: (...[batch, options]: Parameters<Loss>) => {
    const result = loss(batch, options);
    const isPoisoned = stage > 0 && prompts.some((prompt, i) => prompt === PROMPT && batch.timesteps[i] === TIMESTEP);
    return isPoisoned ? { ...result, loss: result.loss.mul(NaN) } : result;
  },
});

// The third backward pass of two pairs or more runs out of memory at its end: at the first convolution, whose output is a
// view that takes no memory and whose gradient would take petabytes.
let passes = 0;
const { OUT_OF_MEMORY_RANK, RANK } = process.env;
const isHere = OUT_OF_MEMORY_RANK !== undefined && OUT_OF_MEMORY_RANK === RANK;
Object.assign(Conv2d.prototype, {
  forward(this: Conv2d, x: Tensor): Tensor {
    const y = forward.call(this, x);
    const isFirst = x.size(1) === 4 && isGradEnabled() && x.size(0) >= 4;
    if (!isHere || !isFirst || ++passes !== 3) return y;
    return y.unsqueeze(0).expand([2 ** 40, ...y.shape]).select(0, 0); // prettier-ignore
  },
});
