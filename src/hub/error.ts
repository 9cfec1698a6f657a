/** A model that cannot be had from the hub, or from its cache. */
export class HubError extends Error {
  override readonly name = "HubError";
}
