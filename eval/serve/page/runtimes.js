// Model files in this browser: .tflite by LiteRT.js, .onnx by ONNX Runtime Web, one thread each.

const folder = new URL("../runtimes/", import.meta.url).href;

function isChannelsFirst(shape, layout) {
  if (layout) return layout === "nchw";
  const isCount = (n) => n === 1 || n === 3;
  return isCount(shape[1]) && !isCount(shape[3]);
}

let liteRt;

async function openTflite(bytes, facts) {
  liteRt ??= (async () => {
    const module = await import(`${folder}litert.js`);
    await module.loadLiteRt(folder);
    return module;
  })();
  const { loadAndCompile, Tensor } = await liteRt;
  const model = await loadAndCompile(bytes, { accelerator: "wasm" });
  const shape = [...model.getInputDetails()[0].shape];
  return {
    isFirst: isChannelsFirst(shape, facts.input.layout),
    async run(numbers) {
      const image = new Tensor(numbers, shape);
      const results = await model.run(image);
      const answer = results[0].toTypedArray().slice();
      [image, ...results].forEach((tensor) => tensor.delete());
      return answer;
    },
  };
}

let onnxRuntime;

async function openOnnx(bytes, facts) {
  onnxRuntime ??= (async () => {
    const module = await import(`${folder}ort.mjs`);
    module.env.wasm.wasmPaths = { wasm: `${folder}ort.wasm` };
    module.env.wasm.numThreads = 1;
    return module;
  })();
  const ort = await onnxRuntime;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const [name] = session.inputNames;
  const declared = session.inputMetadata[0].shape.map((n) => (Number.isInteger(n) ? n : null));
  const isFirst = isChannelsFirst(declared, facts.input.layout);
  const channels = facts.input.channels === "grey" ? 1 : 3, [height, width] = facts.input.image_size;
  const shape = isFirst ? [1, channels, height, width] : [1, height, width, channels];
  return {
    isFirst,
    async run(numbers) {
      const results = await session.run({ [name]: new ort.Tensor("float32", numbers, shape) });
      return results[session.outputNames[0]].data;
    },
  };
}

/** A file of the service, loaded into this browser: { isFirst, run(numbers) -> numbers }. */
export async function openFile(facts) {
  const response = await fetch(`files/${encodeURIComponent(facts.file)}`);
  if (!response.ok) throw new Error(`the file could not be loaded (${response.status})`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const model = await (facts.format === "onnx" ? openOnnx : openTflite)(bytes, facts);
  await model.run(new Float32Array(facts.input.image_size[0] * facts.input.image_size[1] * (facts.input.channels === "grey" ? 1 : 3)));
  return model;
}
