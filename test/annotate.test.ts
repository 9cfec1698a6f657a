/**
 * People as a reward: what the reward asks, and what `b2 annotate` saves and serves, with processes and files as in a run.
 * annotate-page.test.ts has the page in a browser.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { appendFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { allEqual, choose, chooseWorst, rate, undecided } from "../src/annotate/choices.js";
import { Annotations } from "../src/annotate/index.js";
import type { PageState } from "../src/annotate/page-state.js";
import { presets, resolveConfig } from "../src/b2/index.js";
import { layout, RunReader, RunWriter } from "../src/runs/index.js";
import { tidy } from "../src/torch/index.js";
import { b2, b2With, warmB2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import {
  ask,
  bestAndWorst,
  decide,
  keysOf,
  kill,
  newRun,
  noise,
  openPeople,
  post,
  scoreStage,
  serveRun,
  stateOf,
} from "./support/people.js";
import { tinyValues } from "./support/tiny.js";

describe("choices", () => {
  const group = { group: "g", prompt: "", scale: "best-worst", images: ["a", "b", "c"] } as const;

  it("the first is the best, the second the worst; again takes it back", () => {
    const best = choose(group, undecided, "b");
    assert.deepEqual(best, { ...undecided, best: "b" });
    assert.deepEqual(choose(group, best, "b"), undecided);
    assert.deepEqual(choose(group, best, "c"), { ...undecided, best: "b", worst: "c" });
    assert.deepEqual(choose(group, allEqual, "a"), { ...undecided, best: "a" });
  });

  it("the worst may come first", () => {
    const worst = chooseWorst(group, undecided, "b");
    assert.deepEqual(worst, { ...undecided, worst: "b" });
    assert.deepEqual(chooseWorst(group, worst, "b"), undecided);
    assert.deepEqual(choose(group, worst, "a"), { ...undecided, best: "a", worst: "b" });
    assert.deepEqual(choose(group, worst, "b"), { ...undecided, best: "b" });
    assert.deepEqual(chooseWorst(group, { ...undecided, best: "b" }, "b"), { ...undecided, worst: "b" });
  });

  it("of two images one decides about the other", () => {
    const two = { ...group, images: ["a", "b"] };
    assert.deepEqual(choose(two, undecided, "b"), { ...undecided, best: "b", worst: "a" });
    assert.deepEqual(chooseWorst(two, undecided, "b"), { ...undecided, best: "a", worst: "b" });
  });

  it("ratings come one by one", () => {
    assert.deepEqual(rate(rate(undecided, "a", 2), "b", 5), { ...undecided, ratings: { a: 2, b: 5 } });
    assert.deepEqual(rate(allEqual, "a", 1), { ...undecided, ratings: { a: 1 } });
  });
});

describe("the reward people", () => {
  it("asks about every group, stops the run, and gives the answers when it goes on", async () => {
    const run = newRun();
    const keys = keysOf("stage-0000", [3, 2, 4]);
    const images = noise(...keys.map((_, i) => i));
    const reward = await openPeople(run);
    // The second batch begins within the second root, the third within the third.
    assert.deepEqual(await scoreStage(reward, images, keys, 4), Array(9).fill(0));
    await assert.rejects(async () => reward.complete!(), {
      name: "RewardError",
      message:
        "Expected judgements of 9 images in 3 groups for the reward people but received none yet (0 of 3 groups are " +
        `judged); run \`b2 annotate ${run}\`, then the same command again`,
    });
    const served = await serveRun(run);
    const { total, current } = await stateOf(served.address);
    assert.deepEqual([total, current!.group, current!.prompt], [3, keys[0]!.group, `a prompt of ${keys[0]!.group}`]);
    await decide(served.address, bestAndWorst(2, 0));
    await decide(served.address, () => allEqual);

    const again = await openPeople(run);
    assert.deepEqual((await scoreStage(again, images, keys, 2)).slice(0, 5), [-1, 0, 1, 0, 0]);
    assert.throws(() => void again.complete!(), /of 4 images in 1 group for .* \(2 of 3 groups are judged\)/);
    await decide(served.address, bestAndWorst(1, 3));
    assert.deepEqual(await scoreStage(again, images, keys, 9), [-1, 0, 1, 0, 0, 0, 1, 0, -1]);
    await again.complete!();
    images.dispose();
    await kill(served);
  });

  it("asks once, and names its images by their pixels", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0001", [2, 3]);
    const lines = readFileSync(annotations.queue.file, "utf8");
    await ask(run, "stage-0001", [2, 3]);
    assert.equal(readFileSync(annotations.queue.file, "utf8"), lines);
    const [first] = annotations.groups().values();
    assert.equal(annotations.groups().size, 2);
    // Other processes ask about the same images, in any order.
    assert.deepEqual(
      readdirSync(join(annotations.folder, "images")).sort(),
      [...annotations.groups().values()].flatMap(({ images }) => images.map((image) => `${image}.png`)).sort(),
    );
    assert.equal(first!.scale, "best-worst");
  });

  it("takes images that differ by rounding for the same, and others for new ones", async () => {
    const run = newRun();
    await ask(run, "stage-0000", [3]);
    const served = await serveRun(run);
    await decide(served.address, bestAndWorst(0, 1));
    await kill(served);
    const reward = await openPeople(run);
    const keys = keysOf("stage-0000", [3]);
    const images = noise(0, 1, 2);
    // Rounding at another batch size: a pixel or two of 255.
    const rounded = tidy(() => images.mul(0.99).add(0.003));
    assert.deepEqual(await scoreStage(reward, rounded, keys), [1, -1, 0]);
    await reward.complete!();
    const others = tidy(() => images.mul(0.9));
    assert.deepEqual(await scoreStage(reward, others, keys), [0, 0, 0]);
    assert.throws(() => void reward.complete!(), /of 3 images in 1 group/);
    // The first ones need no second judgement.
    assert.deepEqual(await scoreStage(reward, images, keys), [1, -1, 0]);
    await reward.complete!();
    for (const one of [images, rounded, others]) one.dispose();
  });

  it("asks no one to compare equal images, and shows a repeated one once", async () => {
    const run = newRun();
    const reward = await openPeople(run);
    const keys = keysOf("stage-0000", [2, 3]);
    const images = noise(1, 1, 2, 3, 2);
    await scoreStage(reward, images, keys);
    assert.throws(() => void reward.complete!(), /of 2 images in 1 group .* \(1 of 2 groups are judged\)/);
    const served = await serveRun(run);
    await decide(served.address, bestAndWorst(0, 1));
    assert.deepEqual(await scoreStage(reward, images, keys), [0, 0, 1, -1, 1]);
    await reward.complete!();
    images.dispose();
    await kill(served);
  });

  it("refuses a group of one, which can only be rated", async () => {
    const run = newRun();
    const keys = keysOf("stage-0000", [1]);
    const images = noise(1);
    const reward = await openPeople(run);
    await scoreStage(reward, images, keys);
    assert.throws(
      () => void reward.complete!(),
      /at least 2 images .* received 1 in stage-0000\/root-0000; set branch/,
    );
    const rating = await openPeople(run, { scale: "rating" });
    await scoreStage(rating, images, keys);
    assert.throws(() => void rating.complete!(), /Expected judgements of 1 images/);
    const served = await serveRun(run);
    await decide(served.address, (shown) => rate(undecided, shown.images[0]!, 4));
    assert.deepEqual(await scoreStage(rating, images, keys), [4]);
    await rating.complete!();
    images.dispose();
    await kill(served);
  });

  it("groups by prompt where it is not told what belongs together", async () => {
    const run = newRun();
    const images = noise(1, 2, 3, 4);
    const reward = await openPeople(run);
    await reward.score(images, ["a cat", "a dog", "a cat", "a dog"]);
    assert.throws(() => void reward.complete!(), /of 4 images in 2 groups/);
    assert.deepEqual([...new Annotations(layout.annotations(run)).groups().keys()].sort(), ["a cat", "a dog"]);
    images.dispose();
  });

  it("needs a folder outside of a run", async () => {
    await assert.rejects(openPeople(undefined), /Expected a folder for the reward people outside of a run/);
    const folder = temporaryFolder();
    await ask(folder, "stage-0000", [2]);
    const reward = await openPeople(undefined, { folder });
    const images = noise(5, 6);
    await scoreStage(reward, images, keysOf("other", [2]));
    assert.throws(() => void reward.complete!(), new RegExp(`b2 annotate ${folder}`));
    images.dispose();
    const served = await serveRun(folder);
    assert.equal((await stateOf(served.address)).total, 2);
    await kill(served);
  });
});

describe("the annotation files", () => {
  it("a torn last line is overlooked, and cut away before the next one", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0000", [3, 3]);
    const served = await serveRun(run);
    await decide(served.address, bestAndWorst(0, 1));
    await kill(served);
    const { file } = annotations.judgements;
    const whole = readFileSync(file, "utf8");
    appendFileSync(file, whole.slice(0, 50));
    const resumed = await serveRun(run);
    assert.equal((await stateOf(resumed.address)).judged, 1);
    await decide(resumed.address, () => allEqual);
    assert.equal((await stateOf(resumed.address)).judged, 2);
    await kill(resumed);
    const lines = readFileSync(file, "utf8");
    assert.ok(lines.startsWith(whole));
    assert.equal(lines.trimEnd().split("\n").length, 2);
  });

  it("a damaged line is named", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0000", [2]);
    writeFileSync(annotations.judgements.file, "{}\n");
    const { code, stderr } = await warmB2("annotate", run);
    assert.equal(code, 2);
    assert.match(stderr, /^b2: line 1 of .*judgements\.jsonl: group: .*; received "\{\}"\n/m);
    const reward = await openPeople(run);
    const images = noise(0, 1);
    await assert.rejects(scoreStage(reward, images, keysOf("stage-0000", [2])), /line 1 of .*judgements\.jsonl/);
    images.dispose();
  });

  it("a run that begins again asks anew", async () => {
    const run = newRun();
    const annotations = await ask(run, "stage-0000", [2, 2]);
    const served = await serveRun(run);
    RunWriter.recreate(run, { config: resolveConfig(presets.demo), reward: "config" });
    assert.equal((await stateOf(served.address)).total, 0);
    await ask(run, "stage-0000", [2]);
    assert.equal((await stateOf(served.address)).total, 1);
    assert.ok(existsSync(annotations.folder));
    await kill(served);
  });
});

describe("b2 annotate", () => {
  it("wants a run, a free port, and no other b2 annotate", async () => {
    const run = newRun();
    const none = await warmB2("annotate", join(run, "none"));
    assert.deepEqual([none.code, none.stdout], [2, ""]);
    assert.match(none.stderr, /^b2: Expected a run folder \(with run\.json\) but received .*none\n$/);
    const quiet = await warmB2("annotate", run, "--quiet");
    assert.deepEqual([quiet.code, /^b2: Expected --open or --json with --quiet/.test(quiet.stderr)], [2, true]);
    const served = await serveRun(run);
    const second = await warmB2("annotate", run);
    assert.equal(second.code, 2);
    assert.match(
      second.stderr,
      new RegExp(`Expected a run that no other b2 annotate serves .* process ${served.child.pid} `),
    );
    const { port } = new URL(served.address);
    const taken = await warmB2("annotate", newRun(), "--port", port);
    assert.equal(taken.code, 2);
    assert.match(
      taken.stderr,
      new RegExp(`Expected a free port for --port but received ${port}, which another program`),
    );
    served.child.kill("SIGINT");
    const { code, stdout } = await served.outcome;
    assert.equal(code, 0);
    assert.match(stdout, /"type":"finished".*"judged":0,"total":0/);
    assert.ok(!existsSync(join(layout.annotations(run), "annotate.lock")));
  });

  it("ends with --once when all is judged", async () => {
    const run = newRun();
    const empty = await warmB2("annotate", run, "--once");
    assert.deepEqual([empty.code, /^0 of 0 groups are judged/m.test(empty.stdout)], [0, true]);
    await ask(run, "stage-0000", [3]);
    const served = await serveRun(run, "--once");
    await decide(served.address, ({ images }) => ({ ...undecided, best: images[0]! }));
    await decide(served.address, bestAndWorst(0, 2));
    const { code, stdout } = await served.outcome;
    assert.equal(code, 0);
    assert.match(stdout, /"task":"judging","stage":null,"done":1,"total":1,"unit":"groups"/);
    assert.match(stdout, /"type":"finished".*"judged":1,"total":1/);
  });

  it("opens the browser with --open, and says so where there is none", async () => {
    const run = newRun();
    const folder = temporaryFolder();
    writeFileSync(
      join(folder, "xdg-open"),
      `#!/bin/sh\necho "$1" > ${folder}/told.txt; mv ${folder}/told.txt ${folder}/opened.txt\n`,
      { mode: 0o755 },
    );
    const { code, stdout } = await b2With(
      { PATH: `${folder}:${process.env["PATH"]}` },
      "annotate",
      run,
      "--open",
      "--once",
    );
    assert.equal(code, 0);
    const [address] = /^http:.*$/m.exec(stdout)!;
    while (!existsSync(join(folder, "opened.txt"))) await sleep(20);
    assert.equal(readFileSync(join(folder, "opened.txt"), "utf8"), `${address}\n`);
    const without = await b2With({ PATH: temporaryFolder() }, "annotate", run, "--open", "--once");
    assert.equal(without.code, 0);
    assert.match(without.stderr, /No browser could be opened/);
  });

  it("shows groups by stage and root, and goes back key press by key press, also after a kill", async () => {
    const run = newRun();
    await ask(run, "stage-0010", [3]);
    await ask(run, "stage-0009", [3, 3]);
    let served = await serveRun(run);
    const names: string[] = [];
    for (let i = 0; i < 3; i++) {
      const { current } = await stateOf(served.address);
      names.push(current!.group);
      await decide(served.address, ({ images }) => ({ ...undecided, best: images[0]! }));
      await decide(served.address, bestAndWorst(0, 1));
    }
    assert.deepEqual(names, ["stage-0009/root-0000", "stage-0009/root-0001", "stage-0010/root-0000"]);
    await kill(served);
    served = await serveRun(run);
    assert.deepEqual([(await stateOf(served.address)).judged, (await stateOf(served.address)).current], [3, null]);
    for (const [group, isBestLeft] of [
      [names[2], true],
      [names[2], false],
      [names[1], true],
    ] as const) {
      assert.equal((await post(served.address, "undo", {})).status, 200);
      const { current } = await stateOf(served.address);
      assert.deepEqual([current!.group, current!.choice.best !== null], [group, isBestLeft]);
      await kill(served);
      served = await serveRun(run);
    }
    for (let i = 0; i < 3; i++) await post(served.address, "undo", {});
    assert.deepEqual([(await stateOf(served.address)).judged, (await stateOf(served.address)).canUndo], [0, false]);
    assert.equal((await post(served.address, "undo", {})).status, 409);
    await kill(served);
  });

  it("does not take a choice for images that are no longer asked for", async () => {
    const run = newRun();
    await ask(run, "stage-0000", [2]);
    const served = await serveRun(run);
    const { current } = await stateOf(served.address);
    const { group, images } = current!;
    const reward = await openPeople(run);
    const others = noise(77, 78);
    await scoreStage(reward, others, keysOf("stage-0000", [2]));
    assert.throws(() => void reward.complete!());
    others.dispose();
    const late = await post(served.address, "judge", { group, images, choice: allEqual });
    assert.equal(late.status, 409);
    assert.notDeepEqual(((await late.json()) as PageState).current!.images, images);
    await kill(served);
  });

  it("answers nobody but its own page", async () => {
    const run = newRun();
    await ask(run, "stage-0000", [2]);
    const { address, child } = await serveRun(run);
    const { host, origin, pathname, port } = new URL(address);
    const status = async (path: string, init?: RequestInit): Promise<number> =>
      (await fetch(origin + path, init)).status;
    /** fetch sets the host itself. */
    const withHost = async (name: string): Promise<number | undefined> => {
      const sent = request({ host: "127.0.0.1", port, path: `${pathname}state`, headers: { host: name } }).end();
      const [response] = (await once(sent, "response")) as [{ statusCode?: number; resume(): void }];
      response.resume();
      return response.statusCode;
    };
    assert.deepEqual(
      [
        await withHost(host),
        await withHost(`localhost:${port}`),
        await withHost("evil.example"),
        await withHost("127.0.0.1"),
      ],
      [200, 200, 421, 421],
    );
    for (const path of ["/", "/state", "/x/state", `${pathname.slice(0, -2)}/state`, `${pathname}../state`]) {
      assert.equal(await status(path), 404, path);
    }
    for (const path of ["images/../queue.jsonl", "images/%2e%2e/queue.jsonl", "page/../../index.js", "images/1.png"]) {
      const sent = request({ host: "127.0.0.1", port, path: pathname + path, headers: { host } }).end();
      const [response] = (await once(sent, "response")) as [{ statusCode?: number; resume(): void }];
      response.resume();
      assert.equal(response.statusCode, 404, path);
    }
    const { group, images } = (await stateOf(address)).current!;
    const body = JSON.stringify({ group, images, choice: allEqual });
    const json = { "content-type": "application/json" };
    const judge = `${pathname}judge`;
    assert.equal(await status(judge), 405);
    assert.equal(await status(judge, { method: "POST", body }), 415);
    assert.equal(
      await status(judge, { method: "POST", body, headers: { ...json, origin: "http://evil.example" } }),
      403,
    );
    assert.equal(await status(judge, { method: "POST", body: "{", headers: json }), 400);
    assert.equal(await status(judge, { method: "POST", body: " ".repeat(300_000), headers: json }), 413);
    const foreign = { group, images, choice: { ...undecided, best: "0".repeat(64) } };
    const twice = { group, images, choice: { ...undecided, best: images[0], worst: images[0] } };
    const six = { group, images, choice: { ...undecided, ratings: { [images[0]!]: 6 } } };
    for (const wrong of [foreign, twice, six, { group }])
      assert.equal((await post(address, "judge", wrong)).status, 400);
    assert.equal((await stateOf(address)).judged, 0);
    assert.ok(!existsSync(new Annotations(layout.annotations(run)).judgements.file));
    const page = await fetch(address);
    assert.match(page.headers.get("content-security-policy")!, /^default-src 'none'; script-src 'self'/);
    assert.doesNotMatch(await page.text(), /https?:\/\//);
    assert.equal(await status(judge, { method: "POST", body, headers: { ...json, origin } }), 200);
    assert.equal((await stateOf(address)).judged, 1);
    child.kill("SIGKILL");
  });
});

describe("a run with rewards=people", () => {
  it("stops for every stage with a sentence, and goes on from its samples when people have answered", async () => {
    const folder = temporaryFolder();
    const run = join(folder, "run");
    const config = join(folder, "tiny.json");
    writeFileSync(config, JSON.stringify({ ...tinyValues, rewards: ["people"] }));
    const stopped = await b2("run", run, "--config", config);
    assert.equal(stopped.code, 2, stopped.stderr);
    assert.match(
      stopped.stderr,
      /Expected judgements of 6 images in 3 groups for the reward people .*; run `b2 annotate /,
    );
    const reader = new RunReader(run);
    const sampled = statSync(reader.stagePath(0, "sampledTensors"));
    const served = await serveRun(run);
    await decide(served.address, bestAndWorst(0, 1));
    const early = await b2("run", run);
    assert.equal(early.code, 2);
    assert.match(early.stderr, /Expected judgements of 4 images in 2 groups .* \(1 of 3 groups are judged\)/);
    // Nothing is sampled anew.
    assert.equal(statSync(reader.stagePath(0, "sampledTensors")).mtimeMs, sampled.mtimeMs);
    await decide(served.address, bestAndWorst(1, 0));
    await decide(served.address, bestAndWorst(0, 1));
    const next = await b2("run", run);
    assert.equal(next.code, 2);
    assert.deepEqual(reader.finishedStages(), [0]);
    assert.deepEqual(
      reader.samples(0).map(({ reward }) => reward),
      [1, -1, -1, 1, 1, -1],
    );
    const { current } = await stateOf(served.address);
    assert.equal(current!.group, "stage-0001/root-0000");
    for (let root = 0; root < 3; root++) await decide(served.address, bestAndWorst(0, 1));
    const done = await b2("run", run);
    assert.equal(done.code, 0, done.stderr);
    assert.deepEqual(reader.finishedStages(), [0, 1]);
    await kill(served);
  });
});
