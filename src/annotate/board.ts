/** What the page of `b2 annotate` shows: the group whose turn it is, and how far the person is. Saves what is chosen. */
import { InputError } from "../base/errors.js";
import { show } from "../base/show.js";
import { isSame, judgedGroup, whenNew, type Annotations, type Judgement, type QueuedGroup } from "./annotations.js";
import { isComplete, undecided, type Choice } from "./choices.js";
import type { BoardState } from "./page-state.js";

/** A key press, and what was chosen in its group before. */
interface Press {
  readonly group: QueuedGroup;
  readonly before: Choice;
}

export class Board {
  readonly #annotations: Annotations;
  /** By stage, then root: the numbers in the names count as numbers. */
  readonly #ordered = whenNew((groups: ReadonlyMap<string, QueuedGroup>) => {
    const { compare } = new Intl.Collator("en", { numeric: true });
    return [...groups.values()].sort((a, b) => compare(a.group, b.group));
  });

  /** @param annotations whose judgements no other process writes */
  constructor(annotations: Annotations) {
    this.#annotations = annotations;
  }

  /** @throws InputError naming a damaged file */
  state(): BoardState {
    const groups = this.#ordered(this.#annotations.groups());
    const open = groups.filter((group) => !isComplete(group, this.#annotations.choiceIn(group)));
    const presses = this.#presses();
    // The group that was touched last stays, and comes back by an undo, also where an earlier one is new.
    const touched = this.#touched();
    const current = open.find((group) => group === touched) ?? open[0];
    return {
      judged: groups.length - open.length,
      total: groups.length,
      current: current === undefined ? null : { ...current, choice: this.#annotations.choiceIn(current) },
      upcoming: open.find((group) => group !== current)?.images ?? [],
      canUndo: presses.length > 0,
    };
  }

  /**
   * Saves what is chosen in a group.
   *
   * @param given what the page sends, see judgedGroup
   * @returns whether it is saved; not so where the group has other images by now
   * @throws InputError for anything that is no choice in a group
   */
  judge(given: unknown): boolean {
    const { data, error } = judgedGroup.safeParse(given);
    if (error !== undefined) {
      throw new InputError(`Expected the choice in a group but received ${show(given)}: ${error.issues[0]!.message}`);
    }
    const { group, images, choice } = data;
    const chosen = [choice.best, choice.worst, ...Object.keys(choice.ratings)];
    const foreign = chosen.find((image) => image !== null && !images.includes(image));
    if (foreign !== undefined) {
      throw new InputError(`Expected one of the images of ${group} but received ${show(foreign)}`);
    }
    if (choice.best !== null && choice.best === choice.worst) {
      throw new InputError(`Expected two images of ${group} as best and worst but received the same`);
    }
    const queued = this.#annotations.groups().get(group);
    if (queued === undefined || !isSame(queued, data)) return false;
    this.#save(queued, choice, false);
    return true;
  }

  /** Takes back the last key press. @returns whether there was one */
  undo(): boolean {
    const last = this.#presses().at(-1);
    if (last === undefined) return false;
    this.#save(last.group, last.before, true);
    return true;
  }

  #save({ group, images }: QueuedGroup, choice: Choice, isUndo: boolean): void {
    const at = new Date().toISOString();
    this.#annotations.judgements.append({ group, images, choice, at, isUndo });
  }

  /** The group of the last line, if it is still asked for. */
  #touched(): QueuedGroup | undefined {
    const last = this.#annotations.judgements.lines().at(-1);
    return last === undefined ? undefined : this.#queued(last);
  }

  /** The key presses that nobody has taken back, in groups that are still asked for. */
  #presses(): readonly Press[] {
    const presses: Press[] = [];
    const choices = new Map<string, Choice>();
    for (const line of this.#annotations.judgements.lines()) {
      const group = this.#queued(line);
      if (group === undefined) continue;
      if (line.isUndo) presses.pop();
      else presses.push({ group, before: choices.get(group.group) ?? undecided });
      choices.set(group.group, line.choice);
    }
    return presses;
  }

  /** The group as it is asked for now; undefined where its images are others. */
  #queued(line: Judgement): QueuedGroup | undefined {
    const group = this.#annotations.groups().get(line.group);
    return group !== undefined && isSame(group, line) ? group : undefined;
  }
}
