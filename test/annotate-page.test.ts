/** The page of `b2 annotate` in a real browser: keys, clicks, what is saved, and what a screen reader finds. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { RunWriter } from "../src/runs/index.js";
import { Browser, findBrowser } from "./support/browser.js";
import { ask, keysOf, kill, newRun, noise, openPeople, scoreStage, serveRun, stateOf } from "./support/people.js";

const program = findBrowser();
const isNeeded = (process.env["CI"] ?? "") !== "";
const NONE = "NO BROWSER: the page of b2 annotate is not tested. Install chromium, or set CHROME_PATH to a browser.";
if (program === undefined && !isNeeded) console.warn(`\n${NONE}\n`);

/** The text of an element of the page. */
const textOf = (selector: string): string => `document.querySelector(${JSON.stringify(selector)}).innerText`;

/** That the page has shown so many judged groups. */
const counts = (judged: number, total: number): string =>
  `${textOf("#count")} === ${JSON.stringify(`${judged} of ${total} ${total === 1 ? "group" : "groups"}`)}`;

const place = (text: string): string => `${textOf("#place")} === ${JSON.stringify(text)}`;

const verdicts = (...texts: string[]): string =>
  `JSON.stringify([...document.querySelectorAll(".verdict")].map((one) => one.textContent)) === ${JSON.stringify(JSON.stringify(texts))}`;

/** That the server has saved all that was chosen. */
const SAVED = `document.querySelector("#images").ariaBusy !== "true"`;

describe("the page of b2 annotate", { skip: program === undefined && !isNeeded && NONE }, () => {
  let browser: Browser;

  before(async () => {
    assert.ok(program !== undefined, NONE);
    browser = await Browser.open(program);
  });

  after(async () => {
    await browser?.close();
  });

  it("keys choose best and worst; each is saved at once, and a restart shows what is chosen", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0003", [4, 3, 2]);
    const [first, second, third] = annotations.groups().values();
    const served = await serveRun(run);
    await browser.goto(served.address);
    await browser.until(counts(0, 3));
    await browser.until(place("stage 3, root 0"));
    assert.equal(await browser.value(textOf("h1")), first!.prompt);
    assert.equal(await browser.value(textOf("#task")), "Which image is the best?");
    await browser.press("3");
    await browser.until(verdicts("", "", "best", ""));
    await browser.until(`${textOf("#task")} === "Which is the worst?"`);
    await browser.until(SAVED);
    assert.equal(annotations.choiceIn(first!).best, first!.images[2]);
    await kill(served);
    await browser.until(`!document.querySelector("#trouble").hidden`);
    assert.match(await browser.value(textOf("#trouble")), /does not answer/);

    const again = await serveRun(run);
    await browser.goto(again.address);
    await browser.until(verdicts("", "", "best", ""));
    await browser.press("1");
    await browser.until(place("stage 3, root 1"));
    await browser.until(counts(1, 3));
    await browser.until(SAVED);
    assert.deepEqual(annotations.choiceIn(first!), {
      best: first!.images[2],
      worst: first!.images[0],
      equal: false,
      ratings: {},
    });
    // The worst first, by Shift, whatever character the keyboard makes of it.
    await browser.press("!", { shift: true, code: "Digit1" });
    await browser.until(verdicts("worst", "", ""));
    await browser.press("2");
    await browser.until(place("stage 3, root 2"));
    await browser.until(SAVED);
    assert.equal(annotations.choiceIn(second!).best, second!.images[1]);
    // Of two, one press decides.
    await browser.press("2");
    await browser.until(counts(3, 3));
    await browser.until(SAVED);
    assert.equal(annotations.choiceIn(third!).worst, third!.images[0]);
    assert.equal(await browser.value(textOf("h1")), "All done");
    assert.ok((await browser.value<string>(textOf("#task"))).includes(`b2 run ${run}`));
    assert.equal(await browser.value(`document.title`), `3/3 ${run}`);
    await kill(again);
  });

  it("undoes press by press, marks groups as equal, and takes clicks, arrows and Enter", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0000", [3, 3]);
    const [first, second] = annotations.groups().values();
    const served = await serveRun(run);
    await browser.goto(served.address);
    await browser.until(place("stage 0, root 0"));
    await browser.press("s");
    await browser.until(place("stage 0, root 1"));
    await browser.until(SAVED);
    assert.equal(annotations.choiceIn(first!).equal, true);
    await browser.press("1");
    await browser.until(verdicts("best", "", ""));
    await browser.press("u");
    await browser.until(verdicts("", "", ""));
    await browser.press("Backspace");
    await browser.until(place("stage 0, root 0"));
    await browser.until(SAVED);
    assert.equal(annotations.choiceIn(first!).equal, false);
    await browser.until(counts(0, 2));
    assert.equal(await browser.value(`document.querySelector("#undo").disabled`), true);
    await browser.press(" ");
    await browser.until(place("stage 0, root 1"));

    await browser.click(".tile:nth-child(2) .image");
    await browser.until(verdicts("", "best", ""));
    // Again takes it back; the space bar presses the button that has the focus.
    await browser.press(" ");
    await browser.until(verdicts("", "", ""));
    await browser.press("ArrowRight");
    await browser.press("Enter");
    await browser.until(verdicts("", "", "best"));
    await browser.press("ArrowLeft");
    await browser.press("ArrowLeft");
    await browser.press("Enter");
    await browser.until(counts(2, 2));
    await browser.until(SAVED);
    assert.deepEqual(annotations.choiceIn(second!), {
      best: second!.images[2],
      worst: second!.images[0],
      equal: false,
      ratings: {},
    });
    await browser.click("#undo");
    await browser.until(verdicts("", "", "best"));
    await browser.click("#equal");
    await browser.until(counts(2, 2));
    await browser.until(SAVED);
    assert.equal(annotations.choiceIn(second!).equal, true);
    await kill(served);
  });

  it("says what to do while there is nothing, and shows new groups as they come", async () => {
    const run = newRun();
    const served = await serveRun(run);
    await browser.goto(served.address);
    await browser.until(`${textOf("h1")} === "No images yet"`);
    assert.ok((await browser.value<string>(textOf("#task"))).includes(`b2 run ${run}`));
    const lock = RunWriter.lock(run);
    await browser.until(`${textOf("#task")}.startsWith("A run works on this folder")`);
    await ask(run, "stage-0000", [2]);
    await browser.until(counts(0, 1));
    await browser.press("1");
    await browser.until(`${textOf("h1")} === "All done"`);
    // A root of a stage before comes later; the group that is begun stays until it is judged.
    await ask(run, "stage-0002", [3]);
    await browser.until(place("stage 2, root 0"));
    await browser.press("1");
    await browser.until(verdicts("best", "", ""));
    await ask(run, "stage-0001", [3]);
    await browser.until(counts(1, 3));
    await browser.until(place("stage 2, root 0"));
    await browser.until(verdicts("best", "", ""));
    // Other images of the same group: what was chosen is not about them.
    const reward = await openPeople(run);
    const others = noise(70, 71, 72);
    await scoreStage(reward, others, keysOf("stage-0002", [3]));
    assert.throws(() => void reward.complete!());
    others.dispose();
    await browser.until(place("stage 1, root 0"));
    lock.release();
    await kill(served);
  });

  it("rates each image by keys, and by clicks", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0000", [3], { scale: "rating" });
    const [group] = annotations.groups().values();
    const [a, b, c] = group!.images as [string, string, string];
    const served = await serveRun(run);
    await browser.goto(served.address);
    await browser.until(place("stage 0, root 0"));
    await browser.press("4");
    await browser.until(verdicts("rated 4", "", ""));
    await browser.click(".tile:nth-child(3) .rating button:nth-child(5)");
    await browser.until(verdicts("rated 4", "", "rated 5"));
    await browser.until(SAVED);
    assert.deepEqual(annotations.choiceIn(group!).ratings, { [a]: 4, [c]: 5 });
    // Back to the first by the arrows: its rating changes.
    await browser.press("ArrowLeft");
    await browser.press("ArrowLeft");
    await browser.press("1");
    await browser.until(verdicts("rated 1", "", "rated 5"));
    await browser.press("2");
    await browser.until(counts(1, 1));
    await browser.until(SAVED);
    assert.deepEqual(annotations.choiceIn(group!).ratings, { [a]: 1, [b]: 2, [c]: 5 });
    await kill(served);
  });

  it("names everything for a screen reader, and moves the focus to the new prompt", async () => {
    const run = newRun();
    await ask(run, "stage-0000", [3, 3]);
    const served = await serveRun(run);
    await browser.goto(served.address);
    await browser.until(place("stage 0, root 0"));
    const names = async (role: string): Promise<string[]> =>
      (await browser.accessible()).filter((node) => node.role === role).map(({ name }) => name);
    const prompt = "a prompt of stage-0000/root-0000";
    assert.deepEqual(await names("heading"), [prompt]);
    assert.deepEqual(await names("group"), [prompt]);
    assert.deepEqual(await names("progressbar"), ["0 of 2 groups"]);
    await browser.press("2");
    await browser.until(verdicts("", "best", ""));
    const images = ["Image 1 of 3", "Image 2 of 3, best", "Image 3 of 3"];
    assert.deepEqual((await names("button")).sort(), [...images, "S No difference", "U Undo"]);
    assert.equal(await browser.value(`document.querySelector("#task").role`), "status");
    await browser.press("Tab");
    await browser.press("3");
    await browser.until(place("stage 0, root 1"));
    assert.equal(await browser.value("document.activeElement.id"), "prompt");
    await kill(served);
  });

  it("scales small images crisply, fits the window, follows the colour scheme, and loads nothing from elsewhere", async () => {
    const run = newRun();
    await ask(run, "stage-0000", [5]);
    const served = await serveRun(run);
    const scheme = (value: string): Promise<unknown> =>
      browser.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
    const background = (): Promise<string> => browser.value("getComputedStyle(document.body).backgroundColor");
    await scheme("light");
    await browser.goto(served.address);
    await browser.until(`document.querySelectorAll("img.pixels").length === 5`);
    assert.equal(await background(), "rgb(255, 255, 255)");
    await scheme("dark");
    assert.equal(await background(), "rgb(13, 17, 23)");
    const sizes: [number, number][] = [
      [1280, 800],
      [400, 900],
      [1900, 500],
    ];
    for (const [width, height] of sizes) {
      await browser.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
      await browser.until(
        "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight",
      );
    }
    await browser.send("Emulation.clearDeviceMetricsOverride");
    const loaded = await browser.value<string[]>(`performance.getEntriesByType("resource").map(({ name }) => name)`);
    assert.ok(loaded.length > 5);
    assert.deepEqual(
      loaded.filter((name) => !name.startsWith(served.address)),
      [],
    );
    await kill(served);
  });

  it("says so where a choice can't be saved, and shows what is saved", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0000", [3]);
    const served = await serveRun(run);
    await browser.goto(served.address);
    await browser.until(place("stage 0, root 0"));
    await browser.value(
      `window.fetched = window.fetch; window.fetch = (path, init) => fetched(path, init?.body && { ...init, body: "{}" }); 0`,
    );
    await browser.press("1");
    await browser.until(`${textOf("#trouble")}.startsWith("Not saved. Expected the choice in a group")`);
    await browser.until(verdicts("", "", ""));
    assert.equal(annotations.judgements.lines().length, 0);
    assert.equal((await stateOf(served.address)).judged, 0);
    await kill(served);
  });

  it("has thrown no error, and broken no rule of its content policy", () => {
    // Those of the tests above, in which the server was killed or refused.
    const expected = /ERR_CONNECTION_(REFUSED|RESET)|status of 400/;
    assert.deepEqual(
      browser.errors.filter((error) => !expected.test(error)),
      [],
    );
  });
});
