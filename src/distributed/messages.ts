/** Requests from one worker to another, and answers: JSON, with a tensor where there is one. */
import { inference, tensor, tidy, zeros, type DType, type Tensor } from "../torch/index.js";
import { decode, encode, type Group } from "./group.js";

/** The tag of what announces a request. Others are the numbers of requests. */
const ANNOUNCED = 0;

/** What goes with a message. */
interface Content {
  readonly value: unknown;
  /** `order`: its dimensions as they follow each other in memory, the outermost first; `shape`: their sizes. */
  readonly tensor: {
    readonly order: readonly number[];
    readonly shape: readonly number[];
    readonly dtype: DType;
  } | null;
}

/** A request as it has come. */
export interface Request<T> {
  readonly from: number;
  /** Its number, which the answer names. */
  readonly number: number;
  readonly value: T;
  /** On the CPU, with the strides of the one that was sent; the receiver disposes of it. */
  readonly tensor: Tensor | undefined;
}

/**
 * Sends a request.
 *
 * @param number from 1, another one for each request to this rank that is not answered yet
 * @param attached not disposed of
 */
export async function sendRequest(
  group: Group,
  to: number,
  number: number,
  value: unknown,
  attached?: Tensor,
): Promise<void> {
  // In the order of its memory: sums over an image in another order have other bits.
  const order = orderOf(attached?.strides ?? []);
  const host = attached && tidy(() => inference(() => attached.permute(order).to({ device: "cpu" }).contiguous()));
  const kind = host === undefined ? null : { order, shape: host.shape, dtype: host.dtype };
  const content: Content = { value, tensor: kind };
  const bytes = tensor(encode(content));
  const announcement = tensor(BigInt64Array.of(BigInt(number), BigInt(bytes.numel)));
  try {
    // In the order of these calls, also where another request is on its way.
    await Promise.all([
      group.send(announcement, to, ANNOUNCED),
      group.send(bytes, to, number),
      ...(host === undefined ? [] : [group.send(host, to, number)]),
    ]);
  } finally {
    for (const one of [bytes, announcement, host]) one?.dispose();
  }
}

/** Waits for a request of any worker. */
export async function receiveRequest<T>(group: Group): Promise<Request<T>> {
  const announcement = zeros([2], { dtype: "int64" });
  const from = await group.receiveAny(announcement, ANNOUNCED);
  const [number, length] = [...(announcement.toTypedArray() as BigInt64Array)].map(Number) as [number, number];
  announcement.dispose();
  const bytes = zeros([length], { dtype: "uint8" });
  await group.receive(bytes, from, number);
  const { value, tensor: kind } = decode<Content>(bytes);
  if (kind === null) return { from, number, value: value as T, tensor: undefined };
  const attached = zeros(kind.shape, { dtype: kind.dtype });
  await group.receive(attached, from, number);
  const back = tidy(() => attached.permute(kind.shape.map((_, dim) => kind.order.indexOf(dim))));
  attached.dispose();
  return { from, number, value: value as T, tensor: back };
}

/** The dimensions of a tensor as they follow each other in its memory, the outermost first. */
const orderOf = (strides: readonly number[]): number[] =>
  strides.map((_, dim) => dim).sort((a, b) => strides[b]! - strides[a]! || a - b);

/** Answers a request. */
export async function sendAnswer(
  group: Group,
  { from, number }: Pick<Request<unknown>, "from" | "number">,
  value: unknown,
): Promise<void> {
  const bytes = tensor(encode(value));
  const length = tensor(BigInt64Array.of(BigInt(bytes.numel)));
  try {
    await Promise.all([group.send(length, from, number), group.send(bytes, from, number)]);
  } finally {
    for (const one of [bytes, length]) one.dispose();
  }
}

/** Waits for the answer to a request. */
export async function receiveAnswer<T>(group: Group, from: number, number: number): Promise<T> {
  const length = zeros([1], { dtype: "int64" });
  await group.receive(length, from, number);
  const bytes = zeros([length.item()], { dtype: "uint8" });
  length.dispose();
  await group.receive(bytes, from, number);
  return decode(bytes);
}
