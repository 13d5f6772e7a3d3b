// Model files in this browser: .tflite by LiteRT.js, .onnx by ONNX Runtime Web.

const folder = new URL("../runtimes/", import.meta.url).href;

// The smallest module with an instruction of relaxed SIMD: what LiteRT.js itself tries.
const RELAXED_SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1,
  13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11]);
const hasRelaxedSimd = WebAssembly.validate(RELAXED_SIMD);

/** How many threads files may use here: WebAssembly has them in isolated pages alone. */
export function threadsHere(numThreads, format) {
  const hasThreads = self.crossOriginIsolated && (format === "onnx" || hasRelaxedSimd);
  return hasThreads ? numThreads : 1;
}

/** The build of LiteRT.js for this browser. */
function buildOf(numThreads) {
  if (!hasRelaxedSimd) return "litert_wasm_compat_internal";
  return numThreads > 1 ? "litert_wasm_threaded_internal" : "litert_wasm_internal";
}

/** The code of a runtime, which `loadRuntime` takes. Several workers share what is compiled once. */
export async function codeOf(format, { numThreads = 1, webgpu = false } = {}) {
  const name = format === "onnx" ? (webgpu ? "ort-webgpu" : "ort") : buildOf(numThreads);
  const response = await fetch(`${folder}${name}.wasm`);
  if (!response.ok) throw new Error(`${name}.wasm could not be loaded (${response.status})`);
  // ONNX Runtime Web takes bytes alone.
  return format === "onnx" ? response.arrayBuffer() : WebAssembly.compileStreaming(response);
}

async function loadLiteRt({ numThreads, webgpu, code }) {
  const { loadLiteRt, loadAndCompile, Tensor } = await import(`${folder}litert.js`);
  const script = `${folder}${buildOf(numThreads)}.js`;
  self.Module = { locateFile: (name) => folder + name, mainScriptUrlOrBlob: script };
  if (code) {
    self.Module.instantiateWasm = (imports, receive) => {
      WebAssembly.instantiate(code, imports).then((instance) => receive(instance, code));
    };
  }
  await loadLiteRt(script);
  return async (bytes) => {
    const accelerator = webgpu ? "webgpu" : "wasm";
    const model = await loadAndCompile(bytes, { accelerator, cpuOptions: { numThreads } });
    if (webgpu && !model.isFullyAccelerated) {
      throw new Error("WebGPU does not run all of its operations. Measure it on WebAssembly");
    }
    return {
      declared: [...model.getInputDetails()[0].shape],
      tensor: (numbers, shape) => new Tensor(numbers, shape),
      free: (image) => image.delete(),
      async execute(image) {
        const results = await model.run(image);
        const answer = (await results[0].data()).slice();
        results.forEach((tensor) => tensor.delete());
        return answer;
      },
    };
  };
}

const ONNX_TYPES = new Map([[Float32Array, "float32"], [Int32Array, "int32"], [Uint8Array, "uint8"], [Int8Array, "int8"]]);

async function loadOnnx({ numThreads, webgpu, code }) {
  const name = webgpu ? "ort-webgpu" : "ort";
  const ort = await import(`${folder}${name}.mjs`);
  ort.env.wasm.numThreads = numThreads;
  if (code) ort.env.wasm.wasmBinary = code;
  else ort.env.wasm.wasmPaths = { wasm: `${folder}${name}.wasm` };
  return async (bytes) => {
    const executionProviders = [webgpu ? "webgpu" : "wasm"];
    const session = await ort.InferenceSession.create(bytes, { executionProviders });
    const [input] = session.inputNames, [output] = session.outputNames;
    return {
      declared: session.inputMetadata[0].shape.map((n) => (Number.isInteger(n) ? n : null)),
      tensor: (numbers, shape) => new ort.Tensor(ONNX_TYPES.get(numbers.constructor), numbers, shape),
      free: () => {},
      execute: async (image) => (await session.run({ [input]: image }))[output].data,
    };
  };
}

/**
 * A runtime for the files of a format, "tflite" or "onnx".
 *
 * @param options numThreads, webgpu, and its code where that is loaded already.
 * @returns a function from the bytes of a file to a model:
 *   { declared: its shape, null for any size; tensor(numbers, shape); execute(tensor); free(tensor) }
 */
export function loadRuntime(format, { numThreads = 1, webgpu = false, code } = {}) {
  return (format === "onnx" ? loadOnnx : loadLiteRt)({ numThreads, webgpu, code });
}

function isChannelsFirst(shape, layout) {
  if (layout) return layout === "nchw";
  const isCount = (n) => n === 1 || n === 3;
  return isCount(shape[1]) && !isCount(shape[3]);
}

const runtimes = new Map(); // format -> promise of a runtime

/** A file of the service, loaded into this browser: { isFirst, run(numbers) -> numbers }. */
export async function openFile(facts) {
  const response = await fetch(`files/${encodeURIComponent(facts.file)}`);
  if (!response.ok) throw new Error(`the file could not be loaded (${response.status})`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (!runtimes.has(facts.format)) runtimes.set(facts.format, loadRuntime(facts.format));
  const model = await (await runtimes.get(facts.format))(bytes);
  const isFirst = isChannelsFirst(model.declared, facts.input.layout);
  const channels = facts.input.channels === "grey" ? 1 : 3, [height, width] = facts.input.image_size;
  const expected = isFirst ? [1, channels, height, width] : [1, height, width, channels];
  const shape = model.declared.map((n, i) => n ?? expected[i]);
  const run = async (numbers) => {
    const image = model.tensor(numbers, shape);
    const answer = await model.execute(image);
    model.free(image);
    return answer;
  };
  await run(new Float32Array(channels * height * width));
  return { isFirst, run };
}
