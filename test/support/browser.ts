/**
 * A real browser without a window, for tests of pages: Chromium or Chrome, driven by its DevTools protocol. `.ci/run`
 * installs one; elsewhere CHROME_PATH names it, or it is on the PATH.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "undici";
import { temporaryFolder } from "./folders.js";

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell"];

/** The browser of this machine, if there is one. */
export function findBrowser(): string | undefined {
  const given = process.env["CHROME_PATH"];
  if (given !== undefined && given !== "") return given;
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find((file) => existsSync(file));
}

/** What a page answers to a command of the protocol. */
type Answer = Readonly<Record<string, unknown>>;

/** A page in a browser of its own. */
export class Browser {
  readonly #process: ChildProcess;
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, { resolve(answer: Answer): void; reject(error: Error): void }>();
  /** What the page has printed or thrown: errors of its scripts, and files that did not load. */
  readonly errors: string[] = [];
  #sent = 0;

  private constructor(process: ChildProcess, socket: WebSocket) {
    this.#process = process;
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => this.#hear(JSON.parse(String(data)) as Message));
  }

  /** Starts a browser with an empty page. */
  static async open(program: string): Promise<Browser> {
    const folder = temporaryFolder();
    // Root has no sandbox in a container; the pages are our own.
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
    const args = [...flags, "--remote-debugging-port=0", `--user-data-dir=${folder}`, "about:blank"];
    const child = spawn(program, args, { stdio: "ignore" });
    const gone = once(child, "exit").then(() => Promise.reject(new Error(`${program} ended before it listened`)));
    const file = join(folder, "DevToolsActivePort");
    const listening = async (): Promise<string> => {
      while (!existsSync(file) || !readFileSync(file, "utf8").includes("\n")) await sleep(50);
      return readFileSync(file, "utf8").split("\n")[0]!;
    };
    const port = await Promise.race([listening(), gone]);
    gone.catch(() => undefined);
    const pages = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as Record<string, string>[];
    const socket = new WebSocket(pages.find(({ type }) => type === "page")!["webSocketDebuggerUrl"]!);
    await once(socket, "open");
    const browser = new Browser(child, socket);
    for (const domain of ["Page", "Runtime", "Log", "Accessibility"]) await browser.send(`${domain}.enable`);
    return browser;
  }

  /** Sends a command of the DevTools protocol. */
  send(method: string, params: object = {}): Promise<Answer> {
    const id = ++this.#sent;
    const answer = new Promise<Answer>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#socket.send(JSON.stringify({ id, method, params }));
    return answer;
  }

  /** Opens an address, and waits until the page is loaded. */
  async goto(url: string): Promise<void> {
    await this.send("Page.navigate", { url });
    await this.until(`location.href === ${JSON.stringify(url)} && document.readyState === "complete"`);
  }

  /** The value of an expression in the page. */
  async value<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return (result as { value: T }).value;
  }

  /** Waits until an expression in the page is true. */
  async until(expression: string): Promise<void> {
    for (let i = 0; i < 600; i++) {
      // The page may be another one just now.
      if (await this.value(expression).catch(() => false)) return;
      await sleep(50);
    }
    const text = await this.value<string>("document.body.innerText");
    throw new Error(`Expected ${expression} but the page says: ${text}`);
  }

  /** Presses and releases a key, such as "a", "3", " " or "Backspace". */
  async press(key: string, { shift = false, code = codeOf(key) } = {}): Promise<void> {
    const text = key.length === 1 ? key : key === "Enter" ? "\r" : undefined;
    const virtual =
      { Backspace: 8, Enter: 13, ArrowLeft: 37, ArrowRight: 39, Tab: 9 }[key] ?? key.toUpperCase().charCodeAt(0);
    const event = { key, code, windowsVirtualKeyCode: virtual, modifiers: shift ? 8 : 0 };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...event, ...(text && { text }) });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  /** Clicks the middle of the element that a selector finds. */
  async click(selector: string): Promise<void> {
    const [x, y] = await this.value<number[]>(
      `(() => { const { x, y, width, height } = document.querySelector(${JSON.stringify(selector)}).getBoundingClientRect();
        return [x + width / 2, y + height / 2]; })()`,
    );
    const event = { x, y, button: "left", clickCount: 1 };
    for (const type of ["mousePressed", "mouseReleased"])
      await this.send("Input.dispatchMouseEvent", { type, ...event });
  }

  /** What a screen reader finds on the page: roles with their names, in order. */
  async accessible(): Promise<{ role: string; name: string }[]> {
    const { nodes } = await this.send("Accessibility.getFullAXTree");
    return (nodes as { ignored: boolean; role?: { value: string }; name?: { value: string } }[])
      .filter(({ ignored }) => !ignored)
      .map(({ role, name }) => ({ role: role?.value ?? "", name: name?.value ?? "" }));
  }

  /** The page as PNG. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data as string, "base64");
  }

  async close(): Promise<void> {
    const gone = once(this.#process, "exit");
    // It may end before it has answered.
    void this.send("Browser.close");
    await gone;
    this.#socket.close();
  }

  #hear({ id, result, error, method, params }: Message): void {
    const waiting = id === undefined ? undefined : this.#waiting.get(id);
    if (id !== undefined) this.#waiting.delete(id);
    if (error !== undefined) waiting?.reject(new Error(error.message));
    else waiting?.resolve(result ?? {});
    const thrown = method === "Runtime.exceptionThrown" || (method === "Log.entryAdded" && isError(params));
    if (thrown) this.errors.push(JSON.stringify(params));
  }
}

interface Message {
  readonly id?: number;
  readonly result?: Answer;
  readonly error?: { readonly message: string };
  readonly method?: string;
  readonly params?: unknown;
}

const isError = (params: unknown): boolean => (params as { entry: { level: string } }).entry.level === "error";

/** Where a key is. */
function codeOf(key: string): string {
  if (/^[0-9]$/.test(key)) return `Digit${key}`;
  if (/^[a-z]$/.test(key)) return `Key${key.toUpperCase()}`;
  return key === " " ? "Space" : key;
}
