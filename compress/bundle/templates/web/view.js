// Run by Potstill's tests, pixel by pixel against the Python of this bundle.
//
// A photo as the model sees it: cropped, stretched or padded, and resized as Pillow does it.
// A photo is {width, height, channels, pixels}: 8-bit pixels, row by row, red, green and blue.

const FILTERS = {
  bilinear: [1, (x) => Math.max(1 - Math.abs(x), 0)],
  area: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bicubic: [2, bicubic],
  lanczos: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function bicubic(signed) {
  const a = -0.5;
  const x = Math.abs(signed);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

const ONE = 2 ** 22; // a weight of 1

function blank(width, height, channels) {
  return { width, height, channels, pixels: new Uint8ClampedArray(width * height * channels) };
}

/** The pixels of an ImageData, without its transparency. */
export function withoutAlpha({ width, height, data }) {
  const photo = blank(width, height, 3);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) photo.pixels[3 * i + c] = data[4 * i + c];
  }
  return photo;
}

function grey(photo) {
  const result = blank(photo.width, photo.height, 1);
  for (let i = 0; i < result.pixels.length; i++) {
    const [r, g, b] = photo.pixels.subarray(3 * i, 3 * i + 3);
    result.pixels[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
  }
  return result;
}

/** For each pixel of the result: where the pixels that it is made of begin, and their weights. */
function tapsOf(inSize, from, to, outSize, [filterSupport, filter]) {
  const scale = Math.fround(to - from) / outSize;
  const wider = Math.max(scale, 1);
  const support = filterSupport * wider;
  return Array.from({ length: outSize }, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), inSize);
    const weights = [];
    for (let x = first; x < last; x++) weights.push(filter((x - centre + 0.5) * (1 / wider)));
    const total = weights.reduce((sum, weight) => sum + weight, 0) || 1;
    const whole = weights.map((weight) => {
      const w = (weight / total) * ONE;
      return Math.trunc(w < 0 ? w - 0.5 : w + 0.5);
    });
    return { first, weights: whole };
  });
}

function rounded(sum) {
  return Math.min(Math.max(Math.floor((sum + ONE / 2) / ONE), 0), 255);
}

/** Each line of a photo resized: `step` pixels lie between neighbours of a line. */
function pass(source, target, numLines, lineOf, taps, step) {
  for (let line = 0; line < numLines; line++) {
    const [from, to] = lineOf(line);
    taps.forEach(({ first, weights }, i) => {
      for (let c = 0; c < source.channels; c++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) {
          sum += source.pixels[from + (first + j) * step[0] + c] * weights[j];
        }
        target.pixels[to + i * step[1] + c] = rounded(sum);
      }
    });
  }
}

function resized(photo, width, height, corners, interpolation) {
  const [left, top, right, bottom] = corners.map(Math.fround);
  if (interpolation === 'nearest') return nearest(photo, width, height, [left, top, right, bottom]);
  const filter = FILTERS[interpolation];
  const { channels } = photo;
  let rows = photo;
  if (width !== photo.width || left !== 0 || right !== photo.width) {
    rows = blank(width, photo.height, channels);
    const lineOf = (y) => [y * photo.width * channels, y * width * channels];
    const taps = tapsOf(photo.width, left, right, width, filter);
    pass(photo, rows, photo.height, lineOf, taps, [channels, channels]);
  }
  if (height === photo.height && top === 0 && bottom === photo.height) return rows;
  const result = blank(width, height, channels);
  const step = width * channels;
  const taps = tapsOf(photo.height, top, bottom, height, filter);
  pass(rows, result, width, (x) => [x * channels, x * channels], taps, [step, step]);
  return result;
}

function nearest(photo, width, height, [left, top, right, bottom]) {
  const result = blank(width, height, photo.channels);
  const [dx, dy] = [Math.fround(right - left) / width, Math.fround(bottom - top) / height];
  let y = top + dy * 0.5;
  for (let row = 0; row < height; row++, y += dy) {
    let x = left + dx * 0.5;
    for (let column = 0; column < width; column++, x += dx) {
      const from = (Math.trunc(y) * photo.width + Math.trunc(x)) * photo.channels;
      const pixel = photo.pixels.subarray(from, from + photo.channels);
      result.pixels.set(pixel, (row * width + column) * photo.channels);
    }
  }
  return result;
}

/** To the nearest whole number; halves go to the even one, as in Python. */
function roundHalfEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

/** The photo as 8-bit pixels of the size that the model takes. The photo must be upright. */
export function evaluationView(colours, contract) {
  const [height, width] = contract.image_size;
  const photo = contract.channels === 'grey' ? grey(colours) : colours;
  const all = [0, 0, photo.width, photo.height];
  if (contract.fit === 'stretch') {
    return resized(photo, width, height, all, contract.interpolation);
  }
  if (contract.fit === 'pad') {
    const scale = Math.min(height / photo.height, width / photo.width);
    const [w, h] = [photo.width, photo.height].map((n) => Math.max(roundHalfEven(scale * n), 1));
    const inside = resized(photo, w, h, all, contract.interpolation);
    const view = blank(width, height, photo.channels);
    const [left, top] = [Math.floor((width - w) / 2), Math.floor((height - h) / 2)];
    for (let y = 0; y < h; y++) {
      const row = inside.pixels.subarray(y * w * photo.channels, (y + 1) * w * photo.channels);
      view.pixels.set(row, ((top + y) * width + left) * photo.channels);
    }
    return view;
  }
  const scale = Math.min(photo.height / height, photo.width / width);
  const [w, h] = [scale * width, scale * height];
  const [left, top] = [(photo.width - w) / 2, (photo.height - h) / 2];
  const box = [
    Math.max(left, 0),
    Math.max(top, 0),
    Math.min(left + w, photo.width),
    Math.min(top + h, photo.height),
  ];
  return resized(photo, width, height, box, contract.interpolation);
}

/** The view as the model takes it: (pixel - mean) / std, in the order of its channels. */
export function inputOf(view, contract) {
  const { mean, std } = contract.pixels;
  const { channels } = view;
  const area = view.width * view.height;
  const values = new Float32Array(area * channels);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < channels; c++) {
      const place = contract.channels === 'bgr' ? channels - 1 - c : c;
      const value = Math.fround(view.pixels[i * channels + c] - Math.fround(mean[c]));
      const at = contract.layout === 'nchw' ? place * area + i : i * channels + place;
      values[at] = value / Math.fround(std[c]);
    }
  }
  return values;
}

/** Numbers in the type of the model's input: rounded, and limited to what it can hold. */
export function encoded(values, { dtype, scale, zero }) {
  if (dtype === 'float32') return values;
  const kinds = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, int32: Int32Array };
  const bits = Number(dtype.match(/\d+/)[0]);
  const low = dtype.startsWith('u') ? 0 : -(2 ** (bits - 1));
  const limit = (n) => Math.min(Math.max(n, low), low + 2 ** bits - 1);
  return kinds[dtype].from(values, (value) => limit(roundHalfEven(value / (scale || 1) + zero)));
}

/** The values that the numbers of the model's output stand for. */
export function decoded(numbers, { scale, zero }) {
  return Array.from(numbers, (n) => (scale === null ? n : (n - zero) * scale));
}

/** Probabilities of what the model returns. */
export function probabilities(answers, kind) {
  if (kind === 'scores') return answers;
  let values = answers;
  if (values.length === 1) values = [kind === 'logits' ? 0 : 1 - values[0], values[0]];
  if (kind === 'logits') {
    const largest = Math.max(...values);
    values = values.map((value) => Math.exp(value - largest));
  }
  const sum = values.reduce((total, value) => total + value, 0);
  return values.map((value) => (sum > 0 ? value / Math.max(sum, 1e-7) : 1 / values.length));
}
