/** `b2 doctor`: what this machine has and lacks, and what its device computes beside the CPU. */
import { Option, type Command } from "commander";
import { InputError } from "../../base/errors.js";
import type { Finding, SmokeModel, SmokeReport, SmokeSize, State } from "../../doctor/index.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { short, terminalProgress } from "../progress.js";
import { columns } from "../table.js";

interface DoctorOptions {
  readonly json?: boolean;
  readonly smoke?: boolean;
  readonly device?: string;
  readonly size?: SmokeSize;
}

export function addDoctorCommand(program: Command): void {
  program
    .command("doctor")
    .description("Say what this machine has that a run needs, what is wrong with it, and the command that mends it.")
    .option("--json", "print JSON")
    .option("--smoke", "compute with the embedded model and a Stable Diffusion of random weights, beside the CPU")
    .option("--device <name>", "for --smoke: cpu, cuda, cuda:<index> or mps; without it the best there is")
    .addOption(
      new Option(
        "--size <name>",
        "for --smoke: the embedded model alone (tiny), or Stable Diffusion 1.4 too (sd14)",
      ).choices(["tiny", "sd14"]),
    )
    .addHelpText("after", example("b2 doctor", "b2 doctor --smoke --device cuda > report.txt"))
    .action(async (options: DoctorOptions) => {
      await checkOptions(options);
      const { json = false, smoke = false, device, size } = options;
      const doctor = await import("../../doctor/index.js");
      const findings = await doctor.examine();
      const usable = doctor.isUsable(findings);
      const print = (text: string): void => void (json || process.stdout.write(text));
      print(textOf(findings));
      const report =
        smoke && usable
          ? await interruptible("Nothing is kept.", (signal) =>
              doctor.smoke({ device, size }, { progress: terminalProgress(), signal }),
            )
          : undefined;
      if (report !== undefined) print(`\n${smokeText(report)}`);
      if (json) process.stdout.write(`${JSON.stringify({ usable, findings, smoke: report }, null, 2)}\n`);
      if (!usable || report?.passed === false) process.exitCode = 1;
    });
}

/** Before anything is looked at. @throws InputError for a device that can't be one, and options that change nothing */
async function checkOptions({ smoke = false, device, size }: DoctorOptions): Promise<void> {
  if (!smoke && (device !== undefined || size !== undefined)) {
    const option = device === undefined ? "--size" : "--device";
    throw new InputError(`Expected --smoke with ${option}, which only --smoke reads, but received ${option} alone`);
  }
  if (device === undefined) return;
  const { resolveConfig } = await import("../../b2/config/resolve.js");
  resolveConfig({ model: { device } });
}

const MARKS: Record<State, string> = { good: "✓", absent: "-", warning: "!", problem: "✗" };

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

/** A table for each model. */
function smokeText({ device, libtorch, models, passed }: SmokeReport): string {
  const heading =
    `What ${device} computes with libtorch ${libtorch}, beside the CPU in float32.\n` +
    "Errors are the largest, as shares of the largest number.";
  const verdict = passed ? "All errors are within rounding." : "Not all of it is right: see what is marked with ✗.";
  return `${heading}\n\n${models.map(modelText).join("\n")}\n${verdict}\n`;
}

function modelText({ model, images, pixels, precisions, failures, leftOut }: SmokeModel): string {
  const names = precisions[0]?.checks.map(({ name }) => name) ?? [];
  const lines = precisions.map(({ dtype, computeDtype, checks, seconds, peakBytes }) => [
    computeDtype === dtype ? dtype : `${dtype}, computed in ${computeDtype}`,
    ...checks.map(
      ({ error, passed }) => `${passed ? "✓" : "✗"} ${error === 0 ? "0" : (error?.toExponential(1) ?? "NaN")}`,
    ),
    ...[seconds.step, seconds.train, seconds.decode].map((value) => `${short(value)} s`),
    peakBytes === 0 ? "-" : `${(peakBytes / 1e9).toFixed(2)} GB`,
  ]);
  return [
    `${model}, ${images} image${images > 1 ? "s" : ""} of ${pixels} x ${pixels}`,
    ...(lines.length > 0 ? [columns([["weights", ...names, "step", "train", "decode", "peak"], ...lines])] : []),
    ...failures.map((failure) => `✗ ${failure}`),
    ...leftOut.map((why) => `left out: ${why}`),
    "",
  ].join("\n");
}
