/** Draws what the server says. Only what has changed is made anew, so that images do not flicker and the focus stays. */
import { HIGHEST_RATING } from "../choices.js";

/** @import { Choice, Scale } from "../choices.js" */
/** @import { PageState, Shown } from "../page-state.js" */
/** @typedef {{ choose(image: string, asWorst?: boolean): void, rate(image: string, rating: number): void }} Actions */

/** The element of the page with this id. @param {string} id */
export const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** What was drawn last. */
let drawn = "";
/** The group that was drawn last, by name and images. */
let drawnGroup = "";

/** Tells what went wrong; nothing for the empty text. @param {string} trouble */
export function say(trouble) {
  const box = element("trouble");
  if (box.textContent !== trouble) box.textContent = trouble;
  box.hidden = trouble === "";
}

/**
 * @param {PageState} state
 * @param {Actions} actions
 */
export function render(state, actions) {
  const text = JSON.stringify(state);
  if (text === drawn) return;
  drawn = text;
  const { run, judged, total, current, canUndo } = state;
  element("run").textContent = run;
  element("place").textContent = current === null ? "" : placeOf(current.group);
  element("count").textContent = `${judged} of ${total} ${total === 1 ? "group" : "groups"}`;
  const progress = /** @type {HTMLProgressElement} */ (element("progress"));
  progress.max = Math.max(1, total);
  progress.value = judged;
  document.title = `${judged}/${total} ${run}`;
  /** @type {HTMLButtonElement} */ (element("undo")).disabled = !canUndo;
  element("equal").hidden = current === null;
  element("keys").replaceChildren(...keysOf(current));
  showGroup(state, actions);
  for (const image of state.upcoming) new Image().src = urlOf(image);
}

/**
 * @param {PageState} state
 * @param {Actions} actions
 */
function showGroup(state, actions) {
  const { current } = state;
  const [title, task] = current === null ? nothingToDo(state) : [current.prompt, taskOf(current)];
  element("prompt").textContent = title;
  if (element("task").textContent !== task) element("task").textContent = task;
  const group = JSON.stringify(current && [current.group, current.scale, current.images]);
  if (group !== drawnGroup) {
    drawnGroup = group;
    const { images = [], scale = "best-worst" } = current ?? {};
    element("images").replaceChildren(...images.map((image, i) => tile(scale, image, i, actions)));
    arrange(images.length);
    // A screen reader reads the prompt of the new group, and the space bar means "no difference" again.
    element("prompt").focus();
  }
  if (current !== null) markTiles(current);
}

/** "stage-0003/root-0012" as people say it. @param {string} group */
const placeOf = (group) => group.replaceAll(/([a-z])-0*(\d+)(?=\/|$)/g, "$1 $2").replaceAll("/", ", ");

/** What to choose next. @param {Shown} shown */
function taskOf({ scale, images, choice }) {
  if (scale === "rating") {
    const left = images.filter((image) => choice.ratings[image] === undefined).length;
    return left === 0
      ? "All are rated."
      : `How well does each image show this? 1 is worst, 5 is best. ${left} to rate.`;
  }
  if (choice.best === null) return "Which image is the best?";
  return choice.worst === null ? "Which is the worst?" : "Both are chosen.";
}

/** Title and text of a page without images. @param {PageState} state @returns {[string, string]} */
function nothingToDo({ run, isRunning, total }) {
  const soon = "A run works on this folder; groups of images appear here as soon as it has made them.";
  if (total === 0) {
    const why = "Nothing is to be judged yet. A run with rewards=people asks here.";
    const how = `Start it or go on with it: b2 run ${run}`;
    return [
      "No images yet",
      isRunning ? soon : `${why}\n${how}\nThis page can stay open: it shows the images when they are there.`,
    ];
  }
  const next = isRunning ? soon : `To go on, run the command again that has asked for this, such as:\nb2 run ${run}`;
  return ["All done", `All groups are judged and saved.\n${next}`];
}

/** The line about keys. @param {Shown | null} current @returns {(string | HTMLElement)[]} */
function keysOf(current) {
  if (current === null) return [];
  const key = (/** @type {string} */ name) => Object.assign(document.createElement("kbd"), { textContent: name });
  const arrows = [key("←"), key("→"), " then "];
  if (current.scale === "rating")
    return [key("1"), " to ", key("5"), " rate the marked image, ", key("←"), key("→"), " mark another"];
  const last = String(Math.min(9, current.images.length));
  const digits = [key("1"), " to ", key(last), " choose the best, then the worst (or ", key("Shift"), " and digit); "];
  return [...digits, ...arrows, key("Enter"), " too"];
}

/** Where the server has an image. @param {string} image */
const urlOf = (image) => `images/${image}.png`;

/**
 * An image with its key, and the buttons to rate it.
 * @param {Scale} scale
 * @param {string} image
 * @param {number} i
 * @param {Actions} actions
 */
function tile(scale, image, i, actions) {
  const tile = make("div", "tile");
  const button = make("button", "image");
  button.type = "button";
  button.dataset["image"] = image;
  const picture = make("img", "");
  picture.alt = "";
  picture.addEventListener("load", () => sharpen(picture));
  picture.src = urlOf(image);
  const caption = make("span", "caption");
  // Where images are rated, its number is no key.
  const number = Object.assign(make(scale === "rating" ? "span" : "kbd", ""), { textContent: String(i + 1) });
  caption.append(number, make("span", "verdict"));
  button.append(picture, caption);
  tile.append(button);
  if (scale === "rating") tile.append(ratingButtons(image, i, actions));
  else button.addEventListener("click", (event) => actions.choose(image, event.shiftKey));
  return tile;
}

/**
 * @param {string} image
 * @param {number} i
 * @param {Actions} actions
 */
function ratingButtons(image, i, actions) {
  const row = make("div", "rating");
  row.role = "group";
  row.ariaLabel = `Rating of image ${i + 1}`;
  for (let rating = 1; rating <= HIGHEST_RATING; rating++) {
    const button = make("button", "");
    button.type = "button";
    button.textContent = String(rating);
    button.addEventListener("click", () => actions.rate(image, rating));
    row.append(button);
  }
  return row;
}

/** Shows on the tiles what is chosen. @param {Shown} current */
function markTiles({ images, scale, choice }) {
  const open = images.find((image) => choice.ratings[image] === undefined);
  document.querySelectorAll("#images .tile").forEach((tile, i) => {
    const image = images[i] ?? "";
    const button = /** @type {HTMLButtonElement} */ (tile.querySelector(".image"));
    const verdict = verdictOf(choice, image);
    button.classList.toggle("best", verdict === "best");
    button.classList.toggle("worst", verdict === "worst");
    button.classList.toggle("aim", scale === "rating" && image === open);
    button.ariaLabel = [`Image ${i + 1} of ${images.length}`, verdict].filter((word) => word !== "").join(", ");
    if (scale === "best-worst") button.ariaPressed = String(verdict !== "");
    /** @type {HTMLElement} */ (tile.querySelector(".verdict")).textContent = verdict;
    tile.querySelectorAll(".rating button").forEach((one, at) => {
      one.ariaPressed = String(choice.ratings[image] === at + 1);
    });
  });
}

/** @param {Choice} choice @param {string} image */
function verdictOf({ best, worst, ratings }, image) {
  if (image === best) return "best";
  if (image === worst) return "worst";
  return ratings[image] === undefined ? "" : `rated ${ratings[image]}`;
}

/** Chooses the columns that make the images largest. @param {number} count */
export function arrange(count) {
  const room = element("images");
  if (count === 0) return;
  // In pixels, as in style.css: between tiles, and of a tile what is not its image.
  const gap = 12;
  const below = room.querySelector(".rating") === null ? 32 : 76;
  const [width, height] = [room.clientWidth, Math.max(room.clientHeight, 160)];
  let [columns, side] = [1, 0];
  for (let n = 1; n <= count; n++) {
    const rows = Math.ceil(count / n);
    const fits = Math.min((width - gap * (n - 1)) / n, (height - gap * (rows - 1)) / rows - below);
    if (fits > side) [columns, side] = [n, fits];
  }
  room.style.setProperty("--columns", String(columns));
  room.style.setProperty("--side", `${Math.max(96, Math.floor(side))}px`);
  room.querySelectorAll("img").forEach(sharpen);
}

/** Shows the pixels of an image that is much enlarged as squares. @param {HTMLImageElement} picture */
function sharpen(picture) {
  picture.classList.toggle("pixels", picture.naturalWidth > 0 && picture.width >= 2 * picture.naturalWidth);
}

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {string} className
 * @returns {HTMLElementTagNameMap[Name]}
 */
function make(name, className) {
  return Object.assign(document.createElement(name), { className });
}
