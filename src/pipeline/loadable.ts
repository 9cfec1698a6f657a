/**
 * A model of a pipeline that is loaded when it is first called, and can be freed until it is called again: so the largest
 * text encoder needs no memory while others compute. What it is made of, its config, is known without it.
 */
export class Loadable<M extends { readonly config: object; dispose(): void }> {
  readonly #load: () => M;
  readonly #readConfig: () => M["config"];
  #config: M["config"] | undefined;
  #loaded: M | undefined;
  #stays = false;

  /** @param readConfig where the config can be read by itself; else the model is loaded for it */
  constructor(load: () => M, readConfig?: () => M["config"]) {
    this.#load = load;
    this.#readConfig = readConfig ?? (() => this.model.config);
  }

  get config(): M["config"] {
    return (this.#config ??= this.#readConfig());
  }

  /** The model, loaded if it is not. @throws InputError as its `fromPretrained` does */
  get model(): M {
    return (this.#loaded ??= this.#load());
  }

  /** The model if it is in memory. */
  get loaded(): M | undefined {
    return this.#loaded;
  }

  /** The model, for who changes it or holds on to it: `free` does nothing from here on. */
  keep(): M {
    this.#stays = true;
    return this.model;
  }

  /** Frees the model until it is called again. */
  free(): void {
    if (!this.#stays) this.dispose();
  }

  dispose(): void {
    this.#loaded?.dispose();
    this.#loaded = undefined;
  }
}
