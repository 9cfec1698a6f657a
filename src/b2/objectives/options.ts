/** Options that several objectives share. */
import { z } from "zod";

export const clipRange = z
  .number()
  .gt(0)
  .lt(1)
  .default(0.1)
  .describe(
    "e: ratios are clipped to 1 - e .. 1 + e. Log-probs are means over latent dimensions, so ratios stay within about 0.001 of 1 and the reference's 0.1 never clips; 1e-4 does, as in ddpo-pytorch.",
  );
