// The page of a browser that is measured: takes requests of the computer that measures, hands them
// to a worker for each file, and sends back what came of them.

import { codeOf, threadsHere } from "./runtimes.js";

const RETRIES = 20;
const PAUSE_MS = 1000;
const element = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const page = Array.from(crypto.getRandomValues(new Uint8Array(8)), (n) => n.toString(16).padStart(2, "0")).join("");

function show(text) {
  element("state").textContent = text;
}

/** What comes of work that needs the network, which is tried again while there is none. */
async function patiently(work) {
  for (let trial = 1; ; trial++) {
    try {
      return await work();
    } catch (error) {
      const isCut = error instanceof TypeError; // as fetch calls it
      if (!isCut || trial === RETRIES) throw error;
      await pause(PAUSE_MS);
    }
  }
}

/** A request to the computer that measures. */
function ask(path, body) {
  const options = body && {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  return patiently(() => fetch(path, options));
}

const files = new Map(); // number -> promise of its bytes
const codes = new Map(); // which runtime -> promise of its code
const workers = new Map(); // session -> { worker, name: of its file }

function once(promises, key, start) {
  if (!promises.has(key)) promises.set(key, patiently(start));
  return promises.get(key);
}

async function bytesOf(number) {
  const response = await fetch(`files/${number}`);
  if (!response.ok) throw new Error(`the file could not be loaded (${response.status})`);
  return response.arrayBuffer();
}

/** What a worker answers to a message. */
function said(worker, message) {
  return new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => resolve({ error: event.message ?? "its worker could not be started" });
    worker.postMessage(message);
  });
}

async function open(session, { file, name, format, shape, dtype, num_threads, webgpu }) {
  close(session);
  const options = { numThreads: threadsHere(num_threads, format), webgpu };
  const code = await once(codes, `${format} ${options.numThreads} ${webgpu}`, () => codeOf(format, options));
  const bytes = await once(files, file, () => bytesOf(file));
  const worker = new Worker("page/worker.js");
  workers.set(session, { worker, name });
  return said(worker, { open: { bytes, format, shape, dtype, options: { ...options, code } } });
}

function close(session) {
  workers.get(session)?.worker.terminate();
  workers.delete(session);
  return {};
}

async function answerTo({ session, ...request }) {
  try {
    if (request.open) return await open(session, request.open);
    if (request.close) return close(session);
    if (!workers.has(session)) return { error: "this file is not open here" };
    return await said(workers.get(session).worker, request);
  } catch (error) {
    return { error: error.message };
  }
}

let numExecutions = 0;
const fastest = new Map(); // name of a file -> milliseconds of its fastest execution

function showTimes(name, times) {
  numExecutions += times.length;
  fastest.set(name, Math.min(fastest.get(name) ?? Infinity, ...times));
  show(`Measuring: ${numExecutions} executions so far.`);
  element("files").replaceChildren(...[...fastest].map(([name, ms]) => {
    const item = document.createElement("li");
    item.textContent = `${name}: ${ms.toPrecision(3)} ms at best`;
    return item;
  }));
}

async function work({ number, ...request }) {
  const answer = await answerTo(request);
  if (answer.times_ms) showTimes(workers.get(request.session)?.name, answer.times_ms);
  await ask(`answers?page=${page}`, { number, answer });
}

/** What WebGPU computes on, as far as the browser says it; null without an adapter. */
async function webGpuAdapter() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return null;
  const { vendor, architecture, description } = adapter.info;
  return [vendor, architecture, description].filter(Boolean).join(" ") || "unknown";
}

async function greet() {
  const facts = {
    page, user_agent: navigator.userAgent, num_cores: navigator.hardwareConcurrency ?? null,
    is_isolated: Boolean(self.crossOriginIsolated), webgpu: await webGpuAdapter(),
  };
  let response = await ask("hello", facts);
  while (response.status === 409) {
    show("Another page of this address is open. Close it, and this one goes on.");
    await pause(PAUSE_MS);
    response = await ask("hello", facts);
  }
  if (!response.ok) throw new Error(`it refused this page (${response.status})`);
  element("threads").textContent = self.crossOriginIsolated ? ""
    : "Files use one thread here: browsers give a page threads over https or on their own machine alone.";
}

async function keepAwake() {
  // The screen stays on where the browser allows it; it forgets this whenever the page is hidden.
  const request = () => navigator.wakeLock?.request("screen").catch(() => {});
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") request();
  });
  await request();
}

async function measure() {
  await greet();
  show("Connected. Waiting for the first file…");
  addEventListener("pagehide", () => navigator.sendBeacon(`bye?page=${page}`));
  for (let last = 0; ;) {
    const response = await ask(`requests?page=${page}&after=${last}`);
    if (response.status === 410) {
      location.reload(); // it took this page for gone, and the workers with it
      return;
    }
    const { requests, is_over } = await response.json();
    for (const request of requests) {
      last = request.number;
      work(request).catch(() => {}); // the next question for requests fails, too
    }
    if (is_over) break;
  }
  for (const session of [...workers.keys()]) close(session);
  show(`Finished after ${numExecutions} executions. You can close this page.`);
}

keepAwake();
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
measure().catch(() => show("The computer that measures does not answer. Its command has ended, or the network is gone."));
