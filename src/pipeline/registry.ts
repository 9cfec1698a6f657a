/** The model families that come with the project. */
import type { z } from "zod";
import { defineModel, modelFamilies, type ModelFamily } from "./diffusion-model.js";
import { stableDiffusion } from "./stable-diffusion.js";

modelFamilies.register(stableDiffusion);

/** Adds a family of models; which one a folder is of, the families say themselves. @throws InputError for a taken name */
export const registerModel = <O extends z.ZodObject>(family: ModelFamily<O>): ModelFamily =>
  modelFamilies.register(defineModel(family));
