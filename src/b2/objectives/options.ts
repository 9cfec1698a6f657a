/** Options that several objectives share. */
import { z } from "zod";

export const clipRange = z.number().gt(0).lt(1).default(0.1).describe("e: ratios are clipped to 1 - e .. 1 + e.");
