/** Requests from one worker to another, and answers: JSON, with a tensor where there is one. */
import { inference, tensor, zeros, type DType, type Tensor } from "../torch/index.js";
import { decode, encode, type Group } from "./group.js";

/** The tag of what announces a request. Others are the numbers of requests. */
const ANNOUNCED = 0;

/** What goes with a message. */
interface Content {
  readonly value: unknown;
  readonly tensor: { readonly shape: readonly number[]; readonly dtype: DType } | null;
}

/** A request as it has come. */
export interface Request<T> {
  readonly from: number;
  /** Its number, which the answer names. */
  readonly number: number;
  readonly value: T;
  /** On the CPU; the receiver disposes of it. */
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
  const host = attached && inference(() => attached.to({ device: "cpu" }).contiguous());
  const content: Content = { value, tensor: host === undefined ? null : { shape: host.shape, dtype: host.dtype } };
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
    for (const one of [bytes, announcement]) one.dispose();
    if (host !== attached) host?.dispose();
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
  const attached = kind === null ? undefined : zeros(kind.shape, { dtype: kind.dtype });
  if (attached !== undefined) await group.receive(attached, from, number);
  return { from, number, value: value as T, tensor: attached };
}

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
