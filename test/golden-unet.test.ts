/** UNet2DConditionModel against golden vectors: outputs, a shape that is not square, gradients, and its shortcuts. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { UNet2DConditionModel, type UNetForwardOptions } from "../src/models/index.js";
import { liveTensors, noGrad, tensor, tidy } from "../src/torch/index.js";
import { assertClose, goldenSets, gradientTolerance, outputTolerance, type GoldenTensors } from "./support/golden.js";

function addedOf(io: GoldenTensors, suffix = ""): UNetForwardOptions {
  const textEmbeds = io.find(`text_embeds${suffix}`);
  return textEmbeds === undefined ? {} : { added: { textEmbeds, timeIds: io.get(`time_ids${suffix}`) } };
}

for (const set of goldenSets("unet", "io.safetensors")) {
  describe(`UNet2DConditionModel, golden ${set.name}`, () => {
    const io = set.tensors("unet", "io.safetensors");
    const unet = UNet2DConditionModel.fromPretrained(set.path("unet"));

    for (const suffix of ["", "_rect"]) {
      test(suffix === "" ? "output" : "output that is not square", () => {
        const before = liveTensors();
        const input = [io.get(`sample${suffix}`), io.get(`timestep${suffix}`)] as const;
        const text = io.get(`encoder_hidden_states${suffix}`);
        tidy(() => {
          const output = noGrad(() => unet.forward(...input, text, addedOf(io, suffix)));
          assertClose(output, io.get(`output${suffix}`), outputTolerance, `${set.name} output${suffix}`);
        });
        // The sinusoids' frequencies stay.
        assert(liveTensors() - before <= 2);
      });
    }

    if (set.has("unet", "io_odd.safetensors")) {
      test("latents of odd sizes", () => {
        const odd = set.tensors("unet", "io_odd.safetensors");
        tidy(() => {
          const text = odd.get("encoder_hidden_states_odd");
          const output = noGrad(() =>
            unet.forward(odd.get("sample_odd"), odd.get("timestep_odd"), text, addedOf(odd, "_odd")),
          );
          assertClose(output, odd.get("output_odd"), outputTolerance, `${set.name} output_odd`);
        });
      });
    }

    test("text encoded beforehand, and rows that share it", () => {
      tidy(() =>
        noGrad(() => {
          const rows = tensor([0, 1, 2, 1, 0], { dtype: "int64" });
          const of = (key: string) => io.get(key).indexSelect(0, rows);
          const { added } = addedOf(io);
          const text = unet.encodeText(io.get("encoder_hidden_states")).select(rows);
          const output = unet.forward(of("sample"), of("timestep"), text, {
            added: added && {
              textEmbeds: added.textEmbeds.indexSelect(0, rows),
              timeIds: added.timeIds.indexSelect(0, rows),
            },
          });
          assertClose(output, of("output"), outputTolerance, `${set.name} output from encoded text`);
        }),
      );
    });

    test("gradients", () => {
      const sample = io.get("sample").clone().requiresGrad_();
      unet.requiresGrad_();
      tidy(() => {
        const output = unet.forward(sample, io.get("timestep"), io.get("encoder_hidden_states"), addedOf(io));
        output.backward(io.get("grad_output"));
      });
      assertClose(sample.grad!, io.get("grad_sample"), gradientTolerance, `${set.name} gradient of the sample`);
      const parameters = unet.parameters();
      for (const [key, expected] of io.under("grad.")) {
        assertClose(parameters.get(key)!.grad!, expected, gradientTolerance, `${set.name} gradient of ${key}`);
      }
      unet.requiresGrad_(false);
    });

    test("one timestep for all rows", () => {
      tidy(() =>
        noGrad(() => {
          const [sample, text] = [io.get("sample"), io.get("encoder_hidden_states")];
          const one = unet.forward(sample, 500, text, addedOf(io));
          const each = unet.forward(sample, [500, 500, 500], text, addedOf(io));
          assertClose(one, each, outputTolerance, `${set.name} one timestep`);
        }),
      );
    });
  });
}
