/** `b2 doctor`: what this machine has and lacks, and what its device computes beside the CPU. */
import type { Command } from "commander";
import type { Finding, State } from "../../doctor/index.js";
import { example } from "../help.js";

const MARKS: Record<State, string> = { good: "✓", absent: "-", warning: "!", problem: "✗" };

export function addDoctorCommand(program: Command): void {
  program
    .command("doctor")
    .description("Say what of this machine a run can use, what is wrong with it, and the command that mends it.")
    .option("--json", "print JSON")
    .addHelpText("after", example("b2 doctor", "b2 doctor --smoke --device cuda > report.txt"))
    .action(async ({ json = false }: { json?: boolean }) => {
      const { examine, isUsable } = await import("../../doctor/index.js");
      const findings = await examine();
      const usable = isUsable(findings);
      process.stdout.write(json ? `${JSON.stringify({ usable, findings }, null, 2)}\n` : textOf(findings));
      if (!usable) process.exitCode = 1;
    });
}

/** A line for each finding, and below it how to mend what is wrong. */
function textOf(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ check }) => check.length));
  const lines = findings.flatMap(({ state, check, message, fix }) => [
    `${MARKS[state]} ${check.padEnd(width)}  ${message}`,
    ...(fix === undefined ? [] : [`${" ".repeat(width + 4)}-> ${fix}`]),
  ]);
  const count = (state: State): number => findings.filter((finding) => finding.state === state).length;
  const problems = count("problem");
  const verdict =
    problems > 0 ? `b2 cannot run here: ${problems} problem${problems > 1 ? "s" : ""} (✗)` : "b2 can run here";
  return `${lines.join("\n")}\n\n${verdict}${count("warning") > 0 ? `; see what is marked with !` : ""}.\n`;
}
