// The page: a photo goes to every file, on the server and in this browser, side by side.

import { openFile } from "./runtimes.js";
import { watchCamera } from "./camera.js";
import { evaluationView, inputOf, probabilitiesOf } from "./view.js";

const NUM_SHOWN = 3;
const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A new element; children may be elements or text. */
function made(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

let files = [];
let photo = null; // the file that was dropped
let asked = 0; // counts photos, so that late answers to an earlier one are dropped
const answers = new Map(); // "server name" or "browser name" -> { probabilities, ms } or { problem }
const models = new Map(); // name -> promise of a model in this browser

async function askServer(facts, number) {
  const form = new FormData();
  form.append("image", photo);
  const response = await fetch(`predict?file=${encodeURIComponent(facts.file)}`, { method: "POST", body: form });
  const said = await response.json();
  if (!response.ok) throw new Error(said.detail);
  const byName = said.probabilities.map((item) => [item.class, item.probability]);
  keep("server", facts, number, { probabilities: byName, ms: said.ms });
}

/** RGBA bytes of the photo, upright and on white, without a colour profile. */
async function pixelsOf(blob) {
  const image = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const canvas = made("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, image.width, image.height);
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

async function askBrowser(facts, number, pixels) {
  if (!models.has(facts.file)) models.set(facts.file, openFile(facts));
  const model = await models.get(facts.file);
  const { data, width, height } = await pixels;
  const view = evaluationView(data, width, height, facts.input);
  const start = performance.now();
  const numbers = await model.run(inputOf(view, facts.input, model.isFirst));
  const ms = performance.now() - start;
  if (!numbers.every(Number.isFinite)) throw new Error("it answers with NaN or infinity");
  const shares = probabilitiesOf(numbers, facts.answers);
  const byName = shares.map((share, index) => [facts.classes[index], share]);
  byName.sort((one, other) => other[1] - one[1]);
  keep("browser", facts, number, { probabilities: byName, ms });
}

function keep(place, facts, number, answer) {
  if (number !== asked) return;
  answers.set(`${place} ${facts.file}`, answer);
  show();
}

async function ask(blob) {
  if (!blob) return;
  photo = blob;
  asked += 1;
  answers.clear();
  const preview = element("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(blob);
  preview.alt = "The photo that the files are asked about";
  preview.hidden = false;
  element("hint").hidden = true;
  show();
  await askAll();
}

async function askAll() {
  if (!photo) return;
  const number = asked, problem = (place, facts) => (error) =>
    keep(place, facts, number, { problem: error.message });
  // One after the other: each has the processor for itself while its time is taken.
  for (const facts of files) await askServer(facts, number).catch(problem("server", facts));
  if (!element("in-browser").checked) return;
  const pixels = pixelsOf(photo);
  for (const facts of files.filter((facts) => facts.in_browser)) {
    await askBrowser(facts, number, pixels).catch(problem("browser", facts));
  }
}

let own = true; // whether each file has its own threshold

function thresholdOf(facts) {
  return own ? facts.threshold?.score ?? 0 : element("threshold").value / 100;
}

function showThreshold() {
  const hasOwn = files.some((facts) => facts.threshold);
  element("own").hidden = own || !hasOwn;
  element("threshold-text").textContent = own
    ? hasOwn ? "each file's own threshold" : "off" : `${element("threshold").value} %`;
}

function placeOf(place, facts, expected) {
  const answer = answers.get(`${place} ${facts.file}`);
  const title = place === "server" ? "on the server" : "in this browser";
  if (!answer) {
    const isOff = place === "browser" && (!facts.in_browser || !element("in-browser").checked);
    return isOff || !photo ? null : made("div", "place", made("p", "soft", `${title}: asking…`));
  }
  if (answer.problem) return made("div", "place", made("p", "", `${title}: ${answer.problem}`));
  const [best, share] = answer.probabilities[0];
  const isNone = share < thresholdOf(facts);
  const head = made("p", "", made("span", "class", isNone ? "none of these?" : best),
    made("span", "ms soft", `${title}, ${answer.ms.toFixed(2)} ms`));
  const node = made("div", "place", head);
  node.dataset.place = place;
  if (expected !== null && best !== expected) {
    node.append(made("p", "differs", `differs: the first file says ${expected}`));
  }
  const rows = answer.probabilities.slice(0, NUM_SHOWN).map(([name, value]) => {
    const filled = made("span");
    filled.style.width = `${100 * Math.min(value, 1)}%`;
    const bar = made("span", "bar", filled);
    bar.setAttribute("aria-hidden", "true");
    return made("li", "", made("span", "", name), bar, made("span", "", percent(value)));
  });
  node.append(made("ul", "top", ...rows));
  return node;
}

/** One sentence about all answers so far. */
function summary() {
  if (!photo) return "No photo yet.";
  const counts = new Map();
  for (const { probabilities } of answers.values()) {
    if (probabilities) counts.set(probabilities[0][0], (counts.get(probabilities[0][0]) ?? 0) + 1);
  }
  if (!counts.size) return answers.size ? "No file could answer." : "Asking…";
  const groups = [...counts].sort((one, other) => other[1] - one[1]);
  const [[name, count]] = groups;
  if (groups.length > 1) {
    const all = groups.reduce((sum, [, count]) => sum + count, 0);
    const parts = groups.map(([name, count]) => `${name} (${count} of ${all})`);
    return `The answers differ: ${parts.join(", ")}.`;
  }
  return count === 1 ? `The answer is ${name}.` : `All ${count} answers say ${name}.`;
}

function show() {
  const first = answers.get(`server ${files[0]?.file}`)?.probabilities;
  const expected = first ? first[0][0] : null;
  element("verdict").textContent = summary();
  element("answers").replaceChildren(...files.map((facts) => {
    const line = [facts.recipe, `${(facts.file_bytes / 1e6).toFixed(1)} MB`,
      facts.top1 === null ? null : `top-1 ${percent(facts.top1)}`,
      facts.is_chosen ? "the file to ship" : null].filter(Boolean).join(" · ");
    const places = ["server", "browser"].map((place) => placeOf(place, facts, expected));
    const card = made("li", facts.is_chosen ? "chosen" : "", made("h2", "", facts.file),
      made("p", "soft", line), ...places.filter(Boolean));
    card.dataset.file = facts.file;
    return card;
  }));
  element("answers").dataset.photo = asked;
  showThreshold();
}

function listen() {
  const drop = element("drop");
  element("choose").addEventListener("change", (event) => ask(event.target.files[0]));
  document.addEventListener("paste", (event) => ask(event.clipboardData.files[0]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    ask(event.dataTransfer.files[0]);
  });
  element("threshold").addEventListener("input", () => {
    own = false;
    show();
  });
  element("own").addEventListener("click", () => {
    own = true;
    show();
    element("threshold").focus();
  });
  element("in-browser").addEventListener("change", () => {
    for (const key of [...answers.keys()]) if (key.startsWith("browser ")) answers.delete(key);
    show();
    askAll();
  });
  watchCamera(ask);
}

async function start() {
  const facts = await (await fetch("metadata")).json();
  files = facts.files;
  element("served").textContent =
    `${files.length} ${files.length === 1 ? "file" : "files"}, served by Potstill ${facts.version} on this address. Photos go nowhere else.`;
  const able = files.filter((file) => file.in_browser).length;
  element("in-browser").disabled = !able;
  element("runtimes").textContent = facts.has_runtimes
    ? able < files.length ? `(${able} of ${files.length})` : ""
    : "(the runtimes are missing: evaluate runtimes)";
  listen();
  show();
}

start().catch((error) => {
  element("served").textContent = `The service does not answer: ${error.message}`;
});
