/** Evaluations from files. Apart from measures.ts, which the command line loads before it knows what is asked. */
import { z } from "zod";
import { InputError } from "../base/errors.js";
import { measures, rowOf, type Evaluation, type EvaluationRow, type Measure } from "./measures.js";

const measure = z.number().nullable().default(null);

/** What an evaluation's file must have; the rest is computed from it. */
const stored = z.object({
  rows: z.array(
    z.object({
      prompts: z.enum(["training", "held-out"]),
      images: z.number(),
      judges: z.array(z.string()).optional(),
      perPrompt: z.array(
        z.object({
          prompt: z.string(),
          ...(Object.fromEntries(measures.map((name) => [name, measure])) as Record<Measure, typeof measure>),
          rightPairs: z.number().nullable().default(null),
          slots: z.record(z.string(), z.number()).default({}),
          rewards: z.record(z.string(), z.number()).optional(),
        }),
      ),
    }),
  ),
});

/**
 * An evaluation from a file. Those of 0.2.0 lack slots, the measures among right images, and intervals.
 *
 * @param file named in the error
 * @throws InputError when it is not one
 */
export function parseEvaluation(json: unknown, file = "the evaluation"): Evaluation {
  const { data, error } = stored.safeParse(json);
  if (data !== undefined)
    return {
      rows: data.rows.map((row) => rowOf(row as Pick<EvaluationRow, "prompts" | "images" | "judges" | "perPrompt">)),
    };
  const { path, message } = error.issues[0]!;
  throw new InputError(
    `Expected the results of an evaluation in ${file} but received another thing (${path.join(".")}: ${message}); ` +
      "without the file it is made again",
  );
}
