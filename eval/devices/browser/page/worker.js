// One model file in a thread of its own: it is loaded, executed and timed here.
//
// This is a classic worker, because LiteRT.js loads its code with importScripts.

const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array, int8: Int8Array };
const STEPS = 100; // of the clock: what is timed takes at least so many

let model, blank, shape, dtype;

/** The step of the clock, which browsers make coarse for pages that are not isolated. */
function clockStep() {
  let step = Infinity;
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    step = Math.min(step, now - start);
  }
  return step;
}

const stepMs = clockStep();

async function open({ bytes, format, options, ...facts }) {
  ({ shape, dtype } = facts);
  const { loadRuntime } = await import("./runtimes.js");
  const openFile = await loadRuntime(format, options);
  // An app loads its runtime once, so that does not count as loading the file.
  const start = performance.now();
  model = await openFile(new Uint8Array(bytes));
  const loadMs = performance.now() - start;
  blank = model.tensor(new TYPES[dtype](shape.reduce((product, n) => product * n, 1)), shape);
  const before = performance.now();
  await model.execute(blank);
  const firstMs = performance.now() - before;
  return { load_ms: loadMs, first_ms: firstMs, num_threads: options.numThreads };
}

/** Milliseconds of an execution: one, or the mean of as many as the clock needs to be exact. */
async function timed() {
  const start = performance.now();
  let num = 0, elapsed = 0;
  do {
    await model.execute(blank);
    num += 1;
    elapsed = performance.now() - start;
  } while (elapsed < STEPS * stepMs);
  return elapsed / num;
}

async function run(count) {
  const times = [];
  while (times.length < count) times.push(await timed());
  return { times_ms: times };
}

async function answer(pixels) {
  const bytes = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
  const image = model.tensor(new TYPES[dtype](bytes.buffer), shape);
  const numbers = await model.execute(image);
  model.free(image);
  return { answer: Array.from(numbers) };
}

onmessage = async ({ data }) => {
  try {
    if (data.open) postMessage(await open(data.open));
    else if (data.run) postMessage(await run(data.run));
    else postMessage(await answer(data.image));
  } catch (error) {
    postMessage({ error: error.message ?? String(error) });
  }
};
