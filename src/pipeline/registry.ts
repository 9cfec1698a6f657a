/** The model families that come with the project. */
import type { z } from "zod";
import { defineModel, modelFamilies, type ModelFamily } from "./diffusion-model.js";
import { stableDiffusion3 } from "./stable-diffusion-3.js";
import { stableDiffusion } from "./stable-diffusion.js";

modelFamilies.register(stableDiffusion);
modelFamilies.register(stableDiffusion3);

/** Registers a model family, which recognises its own folders and files. @throws InputError if the name is taken */
export const registerModel = <O extends z.ZodObject>(family: ModelFamily<O>): ModelFamily =>
  modelFamilies.register(defineModel(family));
