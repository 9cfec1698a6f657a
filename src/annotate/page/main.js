/**
 * The page of `b2 annotate`: asks the server whose turn it is, makes choices of key presses and clicks, and sends each to
 * the server at once. The server knows everything; a reload shows the same page.
 */
import { allEqual, choose, chooseWorst, isComplete, rate } from "../choices.js";
import { arrange, element, render, say } from "./view.js";

/** @import { Choice } from "../choices.js" */
/** @import { PageState, Shown } from "../page-state.js" */

/** Milliseconds between questions to the server, which may have new groups. */
const EVERY = 1000;

/** What the server said last, with the choices made since. @type {PageState | undefined} */
let state;
/** Answers still to come. A group that is complete waits for the next one, and takes no key press in between. */
let sending = 0;
/** One request at a time, in the order of the key presses. @type {Promise<void>} */
let last = Promise.resolve();

/** @param {PageState} next */
function show(next) {
  state = next;
  render(next, { choose: press, rate: rateImage });
}

/**
 * Asks the server.
 * @param {string} path
 * @param {object} [body] sent by POST
 */
async function ask(path, body) {
  const response = await fetch(path, {
    ...(body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
    // A server that is stopped in a debugger does not answer.
    signal: AbortSignal.timeout(10_000),
  }).catch(() => {
    throw new Error("b2 annotate does not answer. What you have chosen is saved; start it again and open its address.");
  });
  // 409: the group has changed meanwhile; the answer has the new one.
  if (response.ok || response.status === 409) return /** @type {PageState} */ (await response.json());
  throw new Error(await response.text());
}

/**
 * Sends what is chosen, after what was sent before.
 * @param {string} path
 * @param {object} body
 */
function send(path, body) {
  sending++;
  element("images").ariaBusy = "true";
  last = last.then(async () => {
    try {
      const answer = await ask(path, body);
      say("");
      // While more is on its way, the choices on the page are newer than the answer.
      if (sending === 1) show(answer);
    } catch (error) {
      say(`Not saved. ${/** @type {Error} */ (error).message}`);
      await refresh();
    } finally {
      sending--;
      element("images").ariaBusy = String(sending > 0);
    }
  });
}

/** Shows what the server has, also where it is what was chosen before a failure. */
async function refresh() {
  const answer = await ask("state").catch(() => undefined);
  if (answer !== undefined) show(answer);
}

/** Looks for new groups, again and again. */
async function follow() {
  if (sending === 0) {
    try {
      const answer = await ask("state");
      if (sending === 0) {
        say("");
        show(answer);
      }
    } catch (error) {
      say(/** @type {Error} */ (error).message);
    }
  }
  setTimeout(() => void follow(), EVERY);
}

/** The group on the page, unless it is complete and the next one is on its way. */
function open() {
  const current = state?.current;
  return current && !isComplete(current, current.choice) ? current : undefined;
}

/**
 * Makes a choice in the group on the page.
 * @param {(shown: Shown) => Choice} choice
 */
function decide(choice) {
  const current = open();
  if (state === undefined || current === undefined) return;
  const { group, images } = current;
  const chosen = choice(current);
  show({ ...state, current: { ...current, choice: chosen } });
  send("judge", { group, images, choice: chosen });
}

/**
 * An image is chosen by a key or a click.
 * @param {string} image
 * @param {boolean} [asWorst]
 */
function press(image, asWorst = false) {
  decide((shown) => (asWorst ? chooseWorst : choose)(shown, shown.choice, image));
}

/**
 * @param {string} image
 * @param {number} rating
 */
function rateImage(image, rating) {
  decide(({ choice }) => rate(choice, image, rating));
}

const equal = () => decide(() => allEqual);

function undo() {
  if (state?.canUndo || sending > 0) send("undo", {});
}

/** The buttons of the images, in order. */
const buttons = () => /** @type {HTMLButtonElement[]} */ ([...document.querySelectorAll("#images .image")]);

/** Moves the focus to another image. @param {number} by */
function move(by) {
  const all = buttons();
  const at = all.findIndex((button) => button.parentElement?.contains(document.activeElement));
  const next = at === -1 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1);
  all[next]?.focus();
}

/** The image that a rating is for: the one with the focus, else the first without one. */
function aim() {
  const focused = buttons().find((button) => button.parentElement?.contains(document.activeElement));
  const current = open();
  return focused?.dataset["image"] ?? current?.images.find((image) => current.choice.ratings[image] === undefined);
}

/** What a digit means. @param {number} digit 1 to 9 @param {boolean} shift */
function digit(digit, shift) {
  const current = open();
  if (current === undefined) return;
  if (current.scale === "best-worst") {
    const image = current.images[digit - 1];
    if (image !== undefined) press(image, shift);
  } else {
    const image = aim();
    if (digit <= 5 && image !== undefined) {
      const next = current.images[current.images.indexOf(image) + 1];
      if (document.activeElement?.closest(".tile"))
        buttons()
          .find(({ dataset }) => dataset["image"] === next)
          ?.focus();
      rateImage(image, digit);
    }
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const columns = Number(element("images").style.getPropertyValue("--columns")) || 1;
  // By place, because a digit is typed with Shift on some keyboards, and is another sign with Shift on all others.
  const [, number] = /^(?:Digit|Numpad)([1-9])$/.exec(event.code) ?? [];
  const onButton = document.activeElement instanceof HTMLButtonElement;
  /** @type {Readonly<Record<string, () => void>>} */
  const actions = {
    s: equal,
    u: undo,
    backspace: undo,
    arrowright: () => move(1),
    arrowleft: () => move(-1),
    arrowdown: () => move(columns),
    arrowup: () => move(-columns),
    // A button that has the focus is pressed by it, as on any page.
    ...(!onButton && { " ": equal }),
  };
  const action = number === undefined ? actions[event.key.toLowerCase()] : () => digit(Number(number), event.shiftKey);
  if (action === undefined) return;
  event.preventDefault();
  action();
});

element("equal").addEventListener("click", equal);
element("undo").addEventListener("click", undo);
window.addEventListener("resize", () => arrange(buttons().length));

void follow();
