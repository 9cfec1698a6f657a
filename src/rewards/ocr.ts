/**
 * Text that a prompt asks for in quotation marks, against the text that is read off the image: the measure of flow_grpo
 * (Liu et al. 2025, arXiv 2505.05470; flow_grpo/ocr.py), with another reader. It reads with PaddleOCR; this reward reads
 * with Tesseract's neural network, which is weaker on painted letters, so values are comparable in one reader alone.
 *
 * Departures: a prompt without a text in quotation marks is an error, where flow_grpo fails; so is a reader that fails,
 * where flow_grpo gives 0; an odd quotation mark ends no text; typographic quotation marks count too; all white space is
 * ignored, not spaces alone, because Tesseract separates lines.
 */
import { z } from "zod";
import { edits } from "../base/nearest.js";
import { checkInterrupted } from "../base/progress.js";
import { show } from "../base/show.js";
import { tidy, type Tensor } from "../torch/index.js";
import { RewardError } from "./error.js";
import { missingReader, TextReader } from "./ocr-reader.js";
import { defineReward, type Reward } from "./reward.js";

/** Texts in quotation marks: "..." and “...”. */
const QUOTED = /"([^"]*)"|“([^”]*)”/u;

/** The text that a prompt asks for: the first one in quotation marks, as it is written; undefined for none. */
export function wantedText(prompt: string): string | undefined {
  const [, straight, curly] = QUOTED.exec(prompt) ?? [];
  const text = straight ?? curly ?? "";
  return plain(text) === "" ? undefined : text;
}

/** Why a prompt cannot be scored; undefined if it can. */
function promptProblem(prompt: string): string | undefined {
  if (wantedText(prompt) !== undefined) return undefined;
  return `Expected a text in quotation marks in the prompts for the reward ocr but received ${show(prompt)}`;
}

/** @throws RewardError for a prompt that asks for no text */
function expectText(prompt: string): string {
  const text = wantedText(prompt);
  if (text === undefined) throw new RewardError(promptProblem(prompt));
  return text;
}

/**
 * How much of a wanted text was read: 1 - min(d, n) / n, with d the Levenshtein distance in characters, n the length of
 * the wanted text; 1 where the text that was read contains it. Case and white space do not count.
 *
 * @returns 0 to 1
 */
export function textReward(read: string, wanted: string): number {
  const [is, should] = [plain(read), plain(wanted)];
  if (is.includes(should)) return 1;
  const length = [...should].length;
  return 1 - Math.min(edits(is, should), length) / length;
}

const plain = (text: string): string => text.replaceAll(/\s/gu, "").toLowerCase();

export const ocr = defineReward({
  name: "ocr",
  summary: "How much of the text that the prompt has in quotation marks can be read in the image",
  cost: "reading each image on the CPU, in a thread of its own: 0.1 to 0.2 s for 512x512 on one core, up to 2 s where the image is noise",
  range: "0 to 1; 1 where the whole text is read",
  source: "flow_grpo (arXiv 2505.05470), flow_grpo/ocr.py, with Tesseract's LSTM in place of PaddleOCR",
  licence:
    "Apache-2.0 (tesseract.js) and MIT (@tesseract.js-data/eng), which are installed apart: `npm install tesseract.js@7 @tesseract.js-data/eng@1`; nothing is downloaded when they run",
  options: z.object({
    minSize: z
      .int()
      .min(1)
      .max(4096)
      .default(256)
      .describe(
        "Images with a shorter side than this are enlarged to it before they are read: Tesseract overlooks small letters.",
      ),
    readers: z
      .int()
      .min(1)
      .max(64)
      .default(1)
      .describe("Images that are read at the same time, each in a thread of its own with about 100 MB.")
      .meta({ affects: "nothing" }),
  }),
  problems: () => missingReader(),
  promptProblem: (_, prompt) => promptProblem(prompt),
  open: async ({ minSize, readers }): Promise<Reward> => {
    const reader = await TextReader.open(readers);
    return {
      concurrent: true,
      score: async (images, prompts, call) => {
        const wanted = prompts.map(expectText);
        const pictures = await pngs(images, minSize);
        const texts = await reader.read(pictures, () => checkInterrupted(call?.signal));
        return texts.map((text, i) => textReward(text, wanted[i]!));
      },
      dispose: () => reader.dispose(),
    };
  },
});

/** Images [B, 3, H, W] in 0..1 as PNG files in memory, small ones enlarged. */
async function pngs(images: Tensor, minSize: number): Promise<Uint8Array[]> {
  const [{ default: sharp }, { encodePng }] = [await import("sharp"), await import("../images/index.js")];
  const [count, height, width] = [images.size(0), images.size(2), images.size(3)];
  const encoded = Array.from({ length: count }, (_, i) => tidy(() => encodePng(images.select(0, i))));
  const scale = minSize / Math.min(height, width);
  if (scale <= 1) return encoded;
  return Promise.all(
    encoded.map((png) =>
      sharp(png)
        .resize({ width: Math.round(scale * width) })
        .png()
        .toBuffer(),
    ),
  );
}
