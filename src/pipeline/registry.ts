/** The model families that come with the project. */
import { modelFamilies, type ModelFamily } from "./diffusion-model.js";
import { stableDiffusion } from "./stable-diffusion.js";

modelFamilies.register(stableDiffusion);

/** Adds a family of models; which one a folder is of, the families say themselves. @throws InputError for a taken name */
export const registerModel = <F extends ModelFamily>(family: F): F => modelFamilies.register(family);
