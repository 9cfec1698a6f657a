/** The examples at the end of a command's help. */
export const example = (...commands: string[]): string =>
  `\nExample${commands.length > 1 ? "s" : ""}:\n${commands.map((command) => `  $ ${command}\n`).join("")}`;
