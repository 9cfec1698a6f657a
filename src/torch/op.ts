/**
 * `op(name, argumentTypes, returns)`: a typed function over one operator of libtorch's dispatcher.
 *
 * The argument types are the schema's own words ("Tensor", "int[]", "Scalar"); the function's TypeScript signature is
 * derived from them, and operators.test.ts holds every declaration against the running libtorch's schema. A declaration
 * may stop early: the remaining arguments take the schema's defaults. Native code converts by the schema; here only
 * tensors, generators and names become the numbers that stand for them.
 *
 * Tensor's methods are made of operators and operators return Tensors. So this file knows no Tensor: what it declares is
 * generic in the class, and tensor.ts gives its own (operatorsOn).
 */
import { MEMORY_FORMAT, SCALAR_TYPE, type Device, type DType, type MemoryFormat } from "./dtypes.js";
import { inWords, TorchError } from "./error.js";
import { NOT_A_TENSOR, TensorHandle } from "./memory.js";
import { native, type Slot } from "./native.js";
import { Generator } from "./random.js";

type Maybe<T> = T | null | undefined;

/** What each of the schema's type names is in TypeScript. */
interface ArgumentTypes<Tensor> {
  Tensor: Tensor;
  "Tensor?": Maybe<Tensor>;
  "Tensor[]": readonly Tensor[];
  "Tensor?[]": readonly (Tensor | null)[];
  Scalar: number;
  "Scalar?": Maybe<number>;
  "Scalar[]": readonly number[];
  int: number;
  "int?": Maybe<number>;
  "int[]": readonly number[];
  "int[]?": Maybe<readonly number[]>;
  float: number;
  "float?": Maybe<number>;
  "float[]?": Maybe<readonly number[]>;
  bool: boolean;
  "bool?": Maybe<boolean>;
  "bool[]": readonly boolean[];
  str: string;
  "str?": Maybe<string>;
  ScalarType: DType;
  "ScalarType?": Maybe<DType>;
  MemoryFormat: MemoryFormat;
  "MemoryFormat?": Maybe<MemoryFormat>;
  "Layout?": null;
  "Device?": Maybe<Device>;
  "Generator?": Maybe<Generator>;
}

export type ArgumentType = keyof ArgumentTypes<unknown>;

/** What comes back. "self" is an in-place operator's first argument; nothing new is made. */
interface ReturnTypes<Tensor> {
  Tensor: Tensor;
  self: Tensor;
  "Tensor[]": Tensor[];
  bool: boolean;
  void: void;
}

export type Returned = keyof ReturnTypes<unknown>;

export type Operator<A extends readonly ArgumentType[], R extends Returned, Tensor> = (
  ...args: { -readonly [K in keyof A]: ArgumentTypes<Tensor>[A[K]] }
) => ReturnTypes<Tensor>[R];

/**
 * Declares an operator. It is looked up when it is first called, so that a libtorch without it still loads.
 *
 * @param name namespace, name and overload: "aten::add.Tensor"
 * @throws TorchError (the returned function) naming the operator, its tensors' shapes and dtypes, and what was expected
 */
export type Op<Tensor> = <const A extends readonly ArgumentType[], R extends Returned>(
  name: string,
  argumentTypes: A,
  returns: R,
  options?: { optional?: boolean },
) => Operator<A, R, Tensor>;

export interface Declaration {
  readonly name: string;
  readonly argumentTypes: readonly ArgumentType[];
  readonly returns: Returned;
  /** Absent from some supported libtorch: its callers ask hasOperator first. */
  readonly optional: boolean;
}

/** Every operator that was declared so far, for the test that holds them against the live schema. */
export const declarations: Declaration[] = [];

/** Thrown by a converter, and turned into a TorchError that names the operator and the argument. */
class Unexpected extends Error {
  readonly expected: string;
  readonly received: string;

  constructor(expected: string, received: string) {
    super();
    this.expected = expected;
    this.received = received;
  }
}

type Converter = (value: unknown) => unknown;

const toSlot: Converter = (value) => {
  const slot = TensorHandle.slotOf(value);
  if (slot >= 0) return slot;
  throw new Unexpected("a Tensor", slot === NOT_A_TENSOR ? inWords(value) : "a disposed Tensor");
};

const toSlots =
  (each: Converter): Converter =>
  (value) => {
    if (!Array.isArray(value)) throw new Unexpected("an array of Tensors", inWords(value));
    return value.map(each);
  };

const toCode =
  (codes: Readonly<Record<string, number>>, kind: string): Converter =>
  (value) => {
    const code = typeof value === "string" && Object.hasOwn(codes, value) ? codes[value] : undefined;
    if (code !== undefined) return code;
    throw new Unexpected(`${kind} (${Object.keys(codes).join(", ")})`, inWords(value));
  };

const toGenerator: Converter = (value) => {
  const slot = Generator.slotOf(value);
  if (slot >= 0) return slot;
  throw new Unexpected("a Generator", inWords(value));
};

const optional =
  (convert: Converter): Converter =>
  (value) =>
    value === null || value === undefined ? value : convert(value);

/** Types whose values native code cannot read as they are. */
const CONVERTERS: Partial<Record<ArgumentType, Converter>> = {
  Tensor: toSlot,
  "Tensor?": optional(toSlot),
  "Tensor[]": toSlots(toSlot),
  "Tensor?[]": toSlots(optional(toSlot)),
  ScalarType: toCode(SCALAR_TYPE, "a dtype"),
  "ScalarType?": optional(toCode(SCALAR_TYPE, "a dtype")),
  MemoryFormat: toCode(MEMORY_FORMAT, "a memory format"),
  "MemoryFormat?": optional(toCode(MEMORY_FORMAT, "a memory format")),
  "Generator?": optional(toGenerator),
};

/** Whether the running libtorch has an operator, named as "aten::add.Tensor". */
export function hasOperator(name: string): boolean {
  return native.findOperator(String(name)) >= 0;
}

/** `op` for one class of tensors, which is what its operators return. */
export function operatorsOn<Tensor extends TensorHandle>(TensorClass: new (slot: Slot) => Tensor): Op<Tensor> {
  return (name, argumentTypes, returns, { optional = false } = {}) => {
    type Declared = Operator<typeof argumentTypes, typeof returns, Tensor>;
    declarations.push({ name, argumentTypes, returns, optional });
    const converters = argumentTypes.map((type) => CONVERTERS[type]);
    const inPlace = returns === "self";
    const wraps = returns === "Tensor";
    let operator = -1;

    return ((...args: unknown[]) => {
      if (operator < 0) operator = find(name);
      const first = args[0];
      let i = 0;
      try {
        for (; i < args.length; i++) {
          const convert = converters[i];
          if (convert !== undefined) args[i] = convert(args[i]);
        }
      } catch (error) {
        if (error instanceof Unexpected) throw unexpectedArgument(operator, name, i, error);
        throw error;
      }
      const result = native.call(operator, ...args);
      if (wraps) return new TensorClass(result as Slot);
      if (inPlace) return first;
      if (returns === "Tensor[]")
        return (result as (Slot | null)[]).map((slot) => (slot === null ? null : new TensorClass(slot)));
      return result;
    }) as Declared;
  };
}

function find(name: string): number {
  const operator = native.findOperator(name);
  if (operator < 0) {
    throw new TorchError(`Expected an operator of libtorch ${native.version()} but received the name ${name}`, name);
  }
  return operator;
}

function unexpectedArgument(operator: number, name: string, index: number, problem: Unexpected): TorchError {
  const schema = native.schema(operator);
  const argument = schema.arguments[index]?.name ?? `argument ${index}`;
  return new TorchError(
    `Expected ${problem.expected} for ${argument} of ${name} but received ${problem.received}. Schema: ${schema.text}`,
    name,
  );
}
