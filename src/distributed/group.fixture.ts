/** A worker that takes part in every operation and prints what it got, or that waits for others which do not come. */
import { setTimeout as sleep } from "node:timers/promises";
import { isOutOfMemory, tensor, tidy, type Tensor } from "../torch/index.js";
import { groupOfEnvironment, receiveAnswer, receiveRequest, sendAnswer, sendRequest, type Group } from "./index.js";

const [mode = "collectives", late] = process.argv.slice(2);
const timeout = Number(process.env["GROUP_TIMEOUT"] ?? 30);
const joinTimeout = Number(process.env["GROUP_JOIN_TIMEOUT"] ?? 60);

const print = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
const values = (x: Tensor): number[] => {
  const list = [...(x.toTypedArray() as Float32Array)];
  x.dispose();
  return list;
};

/** Sums of gradients, each in a bucket of its own; every process prints the same sums. */
async function sumGradients(group: Group): Promise<void> {
  const { rank } = group;
  const parameter = (...numbers: number[]): Tensor => tensor(numbers).requiresGrad_();
  // Backward completes them in this order. Of the last two one gets a gradient on rank 0 alone, and one none at all.
  const parameters = [parameter(3), parameter(1, 2), parameter(7), parameter(5)] as const;
  const [first, second, ofRank0] = parameters;
  const buckets = group.gradientBuckets(parameters, 1);
  const backward = (scale: number, isTooLarge: boolean): void =>
    tidy(() => {
      const sum = second.mul(scale * (rank + 1)).sum();
      // A view, whose gradient would take petabytes.
      const same = isTooLarge
        ? sum
            .view([1, 1])
            .expand([2 ** 50, 1])
            .select(0, 0)
        : sum;
      const loss = same.mul(first).sum();
      (rank === 0 ? loss.add(ofRank0.mul(scale).sum()) : loss).backward();
    });
  const pass = (isLast: boolean, { scale = 1, isTooLarge = false, times = 1 } = {}): void =>
    buckets.during(
      () => {
        for (let i = 0; i < times; i++) backward(scale, isTooLarge);
      },
      { isLast },
    );
  const printed = async (what: string, failure?: string): Promise<void> => {
    const { sent } = buckets;
    await buckets.sum();
    const sums = parameters.map(({ grad }) => grad && values(grad));
    for (const one of parameters) one.grad = null;
    print({ what, sent, sums, ...(failure !== undefined && { failure }) });
  };
  const failureOf = (run: () => void): unknown => {
    try {
      run();
    } catch (error) {
      return error;
    }
  };

  // The last rank has nothing to do.
  if (rank < group.size - 1) [false, true].forEach((isLast) => pass(isLast, { scale: 0.5 }));
  await printed("learning");
  pass(true);
  await printed("sending");
  pass(true);
  await printed("sending");
  if (rank === 1) {
    const error = failureOf(() => pass(true, { isTooLarge: true }));
    if (!isOutOfMemory(error)) throw error;
    [false, true].forEach((isLast) => pass(isLast, { scale: 0.5 }));
    if (first.grad !== null) throw new Error("Expected no gradient of what has been sent");
  } else pass(true);
  await printed("failing");
  const error = failureOf(() => pass(true, { times: 2 })) as Error;
  await printed("one more", error.message);
  buckets.dispose();
  await group.close();
}

try {
  const group = await groupOfEnvironment({ timeout, joinTimeout });
  const { rank, size } = group;
  if (mode === "collectives") {
    const broadcast = tensor([rank, rank + 0.5]);
    await group.broadcast(broadcast, 1);
    const transposed = tidy(() => tensor([rank, 1, 2, 3], { shape: [2, 2] }).transpose(0, 1));
    const gathered = (await group.allGather(transposed)).map(values);
    const sum = tensor([rank + 1, 10 * (rank + 1)]);
    await group.allReduce_(sum);
    // Two at once: they are matched by the order of the calls.
    const [a, b] = [tensor([1]), tensor([2])];
    let ticks = 0;
    const ticking = setInterval(() => ticks++, 5);
    // The others wait here for the last one, without blocking their event loops.
    if (rank === size - 1) await sleep(400);
    await Promise.all([group.allReduce_(a), group.allReduce_(b), group.barrier()]);
    clearInterval(ticking);
    const json = await group.allGatherJson({ rank, text: "é".repeat(rank) });
    const told = await group.broadcastJson(rank === 0 ? { stage: 3 } : undefined);
    print({ rank, size, broadcast: values(broadcast), gathered, sum: values(sum), both: [values(a), values(b)], json });
    print({ told, ticked: ticks > 10 });
    if (rank < 2) {
      const part = await group.part(2);
      const both = await part.allGatherJson(`part ${part.rank} of ${part.size}`);
      // Two questions at once, of which the second is larger.
      const ask = async (number: number, images?: Tensor): Promise<string> => {
        await sendRequest(group, 2, number, { question: number }, images);
        return receiveAnswer<string>(group, 2, number);
      };
      const images = tidy(() => tensor([rank, 1, 2, 3], { shape: [2, 2] }).transpose(0, 1));
      print({ both, answers: await Promise.all([ask(1), ask(2, images)]) });
      await part.close();
    } else {
      const requests = [];
      for (let i = 0; i < 4; i++) requests.push(await receiveRequest<{ question: number }>(group));
      // In another order than they have come.
      for (const request of requests.reverse()) {
        const { from, number, value, tensor } = request;
        const images = tensor === undefined ? "nothing" : `${tensor.strides.join(",")} ${values(tensor).join(" ")}`;
        await sendAnswer(group, request, `${value.question} of rank ${from}, numbered ${number}, with ${images}`);
      }
    }
    await group.close();
  } else if (mode === "gradients") {
    await sumGradients(group);
  } else if (String(rank) === late) {
    print("here");
    if (mode === "fail") await group.fail("the reward is gone");
    else await sleep(60_000);
  } else {
    print("waiting");
    await group.barrier();
  }
} catch (error) {
  const { name, message } = error as Error;
  print({ name, message });
  process.exit(2);
}
