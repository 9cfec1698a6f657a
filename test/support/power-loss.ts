/**
 * A file system that forgets: records what a piece of work does below a folder, and builds the folders that a power cut may
 * leave at any moment of it.
 *
 * POSIX promises little: what was written to a file is on the disk after an fsync of the file, and a name that was made,
 * replaced or removed after an fsync of its folder. Without these, each of them may be lost or not, in any combination; of a
 * file's contents, any part.
 */
import { createHash } from "node:crypto";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { basename, dirname, join } from "node:path";
import { mock } from "node:test";
import type { Random } from "../../src/world/random.js";

/** A file or a folder. */
type Node = number;

type Operation =
  /** Names of a folder change together; undefined removes one. */
  | { readonly type: "names"; readonly folder: Node; readonly names: readonly (readonly [string, Node | undefined])[] }
  /** All that a file holds then. */
  | { readonly type: "contents"; readonly file: Node; readonly contents: Buffer }
  | { readonly type: "sync"; readonly node: Node }
  | { readonly type: "mark"; readonly mark: string };

/** What a piece of work did, in order. */
export class Recording {
  readonly operations: Operation[] = [];
  /** Folders by path, with what they hold. */
  readonly #tree = new Map<string, Node>();
  readonly #isFolder = new Set<Node>();
  readonly #root: string;
  #nodes = 0;

  /** @param root what it holds already is on the disk */
  constructor(root: string) {
    this.#root = root;
    this.#add(root, true);
    const entries = fs.readdirSync(root, { recursive: true, withFileTypes: true });
    const paths = entries.map((entry) => [join(entry.parentPath, entry.name), entry.isDirectory()] as const);
    for (const [path, isFolder] of paths.sort(([a], [b]) => (a < b ? -1 : 1))) {
      const node = this.#add(path, isFolder);
      if (!isFolder) this.operations.push({ type: "contents", file: node, contents: fs.readFileSync(path) });
      this.#name(path, node);
    }
    for (const node of this.#tree.values()) this.operations.push({ type: "sync", node });
  }

  isFolder(node: Node): boolean {
    return this.#isFolder.has(node);
  }

  mark(mark: string): void {
    this.operations.push({ type: "mark", mark });
  }

  /** Does the work, and records it. Files whose names match `ignored` are left out. */
  async during<T>(work: () => Promise<T>, ignored: RegExp): Promise<T> {
    const real = { ...fs };
    const open = new Map<number, string>();
    const isOurs = (path: unknown): path is string =>
      typeof path === "string" && path.startsWith(`${this.#root}/`) && !ignored.test(basename(path));
    const wrote = (path: string): void => {
      const contents = real.readFileSync(path);
      this.operations.push({ type: "contents", file: this.#tree.get(path)!, contents });
    };
    mock.method(fs, "openSync", (path: string, flags: string, mode?: number) => {
      const isNew = isOurs(path) && flags !== "r" && !real.existsSync(path);
      const fd = real.openSync(path, flags, mode);
      if (path === this.#root || isOurs(path)) open.set(fd, path);
      if (isNew) this.#name(path, this.#add(path, false));
      return fd;
    });
    mock.method(fs, "closeSync", (fd: number) => {
      open.delete(fd);
      real.closeSync(fd);
    });
    mock.method(fs, "writeSync", (fd: number, ...rest: [Uint8Array, number]) => {
      const count = real.writeSync(fd, ...rest);
      if (open.has(fd)) wrote(open.get(fd)!);
      return count;
    });
    mock.method(fs, "writeFileSync", (to: number | string, contents: string, options?: fs.WriteFileOptions) => {
      real.writeFileSync(to, contents, options);
      if (isOurs(to)) throw new Error(`Expected atomic writes but received a plain one of ${to}`);
      if (typeof to === "number" && open.has(to)) wrote(open.get(to)!);
    });
    mock.method(fs, "fsyncSync", (fd: number) => {
      real.fsyncSync(fd);
      const path = open.get(fd);
      if (path !== undefined) this.operations.push({ type: "sync", node: this.#tree.get(path)! });
    });
    mock.method(fs, "renameSync", (from: string, to: string) => {
      real.renameSync(from, to);
      if (isOurs(from)) this.#rename(from, to);
    });
    mock.method(fs, "rmSync", (path: string, options?: fs.RmOptions) => {
      const was = isOurs(path) && real.existsSync(path);
      real.rmSync(path, options);
      if (was) this.#name(path, undefined);
    });
    mock.method(fs, "mkdirSync", (path: string, options?: fs.MakeDirectoryOptions) => {
      real.mkdirSync(path, options);
      if (isOurs(path)) this.#name(path, this.#add(path, true));
    });
    syncBuiltinESMExports();
    try {
      return await work();
    } finally {
      mock.restoreAll();
      syncBuiltinESMExports();
    }
  }

  #add(path: string, isFolder: boolean): Node {
    const node = this.#nodes++;
    this.#tree.set(path, node);
    if (isFolder) this.#isFolder.add(node);
    return node;
  }

  #name(path: string, node: Node | undefined): void {
    const folder = this.#tree.get(dirname(path))!;
    this.operations.push({ type: "names", folder, names: [[basename(path), node]] });
  }

  #rename(from: string, to: string): void {
    if (dirname(from) !== dirname(to))
      throw new Error(`Expected a rename within a folder but received ${from} -> ${to}`);
    const names = [
      [basename(from), undefined],
      [basename(to), this.#tree.get(from)],
    ] as const;
    this.operations.push({ type: "names", folder: this.#tree.get(dirname(from))!, names });
    for (const [path, node] of [...this.#tree]) {
      if (path === from || path.startsWith(`${from}/`)) {
        this.#tree.delete(path);
        this.#tree.set(`${to}${path.slice(from.length)}`, node);
      }
    }
  }
}

/** A folder after a power cut: contents by path; undefined for folders. */
export type State = ReadonlyMap<string, Buffer | undefined>;

/** What a power cut lets through of what was not synced. */
interface Fate {
  readonly name: (operation: number) => boolean;
  /** The part of unsynced contents that is there. */
  readonly contents: number;
}

/** A state, and what had been marked before the power went. */
export interface AfterCut {
  readonly state: State;
  readonly marks: readonly string[];
  readonly where: string;
}

/** The states that power cuts may leave, each once. @param random chooses among combinations where there are many */
export function* statesAfterCuts(recording: Recording, random: Random): Generator<AfterCut> {
  const seen = new Set<string>();
  const { operations } = recording;
  const marks: string[] = [];
  for (let end = 1; end <= operations.length; end++) {
    const last = operations[end - 1]!;
    if (last.type === "mark") marks.push(last.mark);
    for (const fate of fatesAt(operations.slice(0, end), random)) {
      const state = stateAt(recording, end, fate);
      const digest = digestOf(state) + String(marks.length);
      if (seen.has(digest)) continue;
      seen.add(digest);
      yield { state, marks: [...marks], where: `after operation ${end} of ${operations.length}` };
    }
  }
}

function fatesAt(operations: readonly Operation[], random: Random): Fate[] {
  const pending = operations.flatMap((operation, i) =>
    operation.type === "names" && !isSynced(operations, i, operation.folder) ? [i] : [],
  );
  const [all, none] = [() => true, () => false];
  const some = new Set(pending.filter(() => random.uniform() < 0.5));
  const one = pending.length === 0 ? -1 : random.pick(pending);
  return [
    { name: none, contents: 0 },
    { name: all, contents: 0 },
    { name: all, contents: 0.5 },
    { name: all, contents: 1 },
    { name: (i) => i === pending.at(-1), contents: 0 },
    { name: (i) => i !== one, contents: 0.5 },
    { name: (i) => i === one, contents: 1 },
    { name: (i) => some.has(i), contents: 1 },
  ];
}

const isSynced = (operations: readonly Operation[], from: number, node: Node): boolean =>
  operations.some((later, i) => i > from && later.type === "sync" && later.node === node);

function stateAt(recording: Recording, end: number, fate: Fate): State {
  const operations = recording.operations.slice(0, end);
  const folders = new Map<Node, Map<string, Node>>();
  const contents = new Map<Node, Buffer>();
  operations.forEach((operation, i) => {
    if (operation.type === "names") {
      const { folder, names } = operation;
      if (!isSynced(operations, i, folder) && !fate.name(i)) return;
      const own = folders.get(folder) ?? new Map<string, Node>();
      folders.set(folder, own);
      for (const [name, node] of names) {
        if (node === undefined) own.delete(name);
        else own.set(name, node);
      }
    } else if (operation.type === "contents") {
      const { file, contents: written } = operation;
      const length = isSynced(operations, i, file) ? written.length : Math.floor(written.length * fate.contents);
      contents.set(file, written.subarray(0, length));
    }
  });
  const state = new Map<string, Buffer | undefined>();
  const visit = (node: Node, path: string): void => {
    for (const [name, child] of folders.get(node) ?? []) {
      const at = path === "" ? name : `${path}/${name}`;
      state.set(at, recording.isFolder(child) ? undefined : (contents.get(child) ?? Buffer.alloc(0)));
      visit(child, at);
    }
  };
  visit(0, "");
  return new Map([...state].sort(([a], [b]) => (a < b ? -1 : 1)));
}

function digestOf(state: State): string {
  const hash = createHash("sha1");
  for (const [path, contents] of state) {
    hash.update(`${path}\0`);
    if (contents !== undefined) hash.update(contents);
  }
  return hash.digest("hex");
}
/** Writes a state to a new folder. */
export function writeState(state: State, folder: string): void {
  fs.mkdirSync(folder, { recursive: true });
  for (const [path, contents] of state) {
    if (contents === undefined) fs.mkdirSync(join(folder, path), { recursive: true });
    else fs.writeFileSync(join(folder, path), contents);
  }
}
