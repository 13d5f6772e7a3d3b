// The evaluation view in JavaScript: the same pixels as eval/images.py, bit for bit.
//
// Pillow resizes with whole numbers: weights are rounded to 22 bits, and each of its two passes
// rounds to a byte (libImaging/Resample.c). A box travels to it in single precision.

const PRECISION_BITS = 32 - 8 - 2;
const HALF = 1 << (PRECISION_BITS - 1);

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

function bicubic(x) {
  const a = -0.5, distance = Math.abs(x);
  if (distance < 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
  if (distance < 2) return (((distance - 5) * distance + 8) * distance - 4) * a;
  return 0;
}

const FILTERS = {
  area: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: { support: 2, weight: bicubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

const clip = (sum) => Math.min(Math.max(sum >> PRECISION_BITS, 0), 255);

/** For each output pixel: its first input pixel, and the weights of that and the next ones. */
function weightsOf(inputSize, start, end, outputSize, filter) {
  const scale = Math.fround(end - start) / outputSize;
  const filterScale = Math.max(scale, 1), support = filter.support * filterScale;
  return Array.from({ length: outputSize }, (_, index) => {
    const center = start + (index + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), inputSize);
    const weights = [];
    let total = 0;
    for (let x = first; x < last; x++) {
      const weight = filter.weight((x - center + 0.5) * (1 / filterScale));
      weights.push(weight);
      total += weight;
    }
    const whole = weights.map((weight) => {
      const share = (total === 0 ? weight : weight / total) * 2 ** PRECISION_BITS;
      return Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    });
    return { first, weights: Int32Array.from(whole) };
  });
}

function resizedAcross(photo, size, start, end, filter) {
  const { width, height, channels, data } = photo;
  const columns = weightsOf(width, start, end, size, filter);
  const result = new Uint8Array(size * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < size; x++) {
      const { first, weights } = columns[x];
      for (let c = 0; c < channels; c++) {
        let sum = HALF, from = (y * width + first) * channels + c;
        for (let i = 0; i < weights.length; i++, from += channels) sum += data[from] * weights[i];
        result[(y * size + x) * channels + c] = clip(sum);
      }
    }
  }
  return { width: size, height, channels, data: result };
}

function resizedDown(photo, size, start, end, filter) {
  const { width, height, channels, data } = photo;
  const rows = weightsOf(height, start, end, size, filter), stride = width * channels;
  const result = new Uint8Array(size * stride);
  for (let y = 0; y < size; y++) {
    const { first, weights } = rows[y];
    for (let x = 0; x < stride; x++) {
      let sum = HALF, from = first * stride + x;
      for (let i = 0; i < weights.length; i++, from += stride) sum += data[from] * weights[i];
      result[y * stride + x] = clip(sum);
    }
  }
  return { width, height: size, channels, data: result };
}

function nearest(photo, width, height, [left, top, right, bottom]) {
  const { channels, data } = photo;
  const places = (start, end, size) => {
    const step = Math.fround(end - start) / size, result = [];
    for (let i = 0, at = start + step * 0.5; i < size; i++, at += step) result.push(Math.trunc(at));
    return result;
  };
  const columns = places(left, right, width), result = new Uint8Array(width * height * channels);
  places(top, bottom, height).forEach((row, y) => {
    columns.forEach((column, x) => {
      for (let c = 0; c < channels; c++) {
        result[(y * width + x) * channels + c] = data[(row * photo.width + column) * channels + c];
      }
    });
  });
  return { width, height, channels, data: result };
}

/** Whether Pillow 13 starts with the height; found by resizing 6,000 photos in both orders. */
function isFirstDown(photo, width, height) {
  return photo.height > height && photo.height - height > 2 * (photo.width - width);
}

/** As Pillow's Image.resize. */
function resized(photo, width, height, interpolation, box) {
  const [left, top, right, bottom] = box.map(Math.fround);
  if (interpolation === "nearest") return nearest(photo, width, height, [left, top, right, bottom]);
  const filter = FILTERS[interpolation];
  const isWide = width !== photo.width || left !== 0 || right !== width;
  const isHigh = height !== photo.height || top !== 0 || bottom !== height;
  const across = (from) => (isWide ? resizedAcross(from, width, left, right, filter) : from);
  const down = (from) => (isHigh ? resizedDown(from, height, top, bottom, filter) : from);
  return isFirstDown(photo, width, height) ? across(down(photo)) : down(across(photo));
}

function roundHalfToEven(x) {
  const below = Math.floor(x), rest = x - below;
  if (rest !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

function cropped(photo, width, height, interpolation) {
  const scale = Math.min(photo.height / height, photo.width / width);
  const cropHeight = scale * height, cropWidth = scale * width;
  const top = (photo.height - cropHeight) / 2, left = (photo.width - cropWidth) / 2;
  const box = [
    Math.max(left, 0), Math.max(top, 0),
    Math.min(left + cropWidth, photo.width), Math.min(top + cropHeight, photo.height),
  ];
  return resized(photo, width, height, interpolation, box);
}

function padded(photo, width, height, interpolation) {
  const scale = Math.min(height / photo.height, width / photo.width);
  const inner = [photo.width, photo.height].map((n) => Math.max(roundHalfToEven(scale * n), 1));
  const small = resized(photo, ...inner, interpolation, [0, 0, photo.width, photo.height]);
  const left = Math.floor((width - inner[0]) / 2), top = Math.floor((height - inner[1]) / 2);
  const { channels } = photo, data = new Uint8Array(width * height * channels);
  for (let y = 0; y < inner[1]; y++) {
    const row = small.data.subarray(y * inner[0] * channels, (y + 1) * inner[0] * channels);
    data.set(row, ((top + y) * width + left) * channels);
  }
  return { width, height, channels, data };
}

/** The red, green and blue of pixels with opacity, or their grey as Pillow computes it. */
function withoutOpacity(pixels, width, height, isGrey) {
  const channels = isGrey ? 1 : 3, data = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
    if (isGrey) {
      data[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    } else {
      data[3 * i] = red;
      data[3 * i + 1] = green;
      data[3 * i + 2] = blue;
    }
  }
  return { width, height, channels, data };
}

/**
 * A photo as a model sees it.
 *
 * @param pixels RGBA bytes, as in ImageData.
 * @param input of a file, as in /metadata: image_size, fit, interpolation and channels.
 * @returns bytes, (height, width, channels).
 */
export function evaluationView(pixels, width, height, input) {
  const photo = withoutOpacity(pixels, width, height, input.channels === "grey");
  const [rows, columns] = input.image_size, { fit, interpolation } = input;
  if (fit === "stretch") {
    return resized(photo, columns, rows, interpolation, [0, 0, width, height]).data;
  }
  const fitted = fit === "pad" ? padded : cropped;
  return fitted(photo, columns, rows, interpolation).data;
}

/**
 * The numbers that a file takes: scaled, in its order of colours, channels last or first.
 *
 * @param view bytes of evaluationView.
 * @param isFirst whether the channels come first.
 */
export function inputOf(view, input, isFirst) {
  const channels = input.channels === "grey" ? 1 : 3, size = view.length / channels;
  const result = new Float32Array(view.length);
  const scales = { mean: Float32Array.from(input.mean), std: Float32Array.from(input.std) };
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < channels; c++) {
      const place = input.channels === "bgr" ? channels - 1 - c : c;
      const value = Math.fround(view[i * channels + c] - scales.mean[c]) / scales.std[c];
      result[isFirst ? place * size + i : i * channels + place] = value;
    }
  }
  return result;
}

/** What the numbers of a file are, where it does not say: as output_kind in eval/scoring. */
function kindOf(outputs) {
  const isInRange = outputs.every((value) => value >= 0 && value <= 1.01);
  if (!isInRange) return "logits";
  const error = Math.abs(outputs.reduce((sum, value) => sum + value, 0) - 1);
  const isSum = outputs.length === 1 || error <= Math.max(0.05, outputs.length / 512);
  return isSum ? "probabilities" : "scores";
}

/** Probabilities of the numbers that a file returned, as as_probabilities in eval/scoring. */
export function probabilitiesOf(numbers, answers) {
  const kind = answers ?? kindOf(numbers);
  let values = Array.from(numbers);
  if (values.length === 1) values = [kind === "logits" ? 0 : 1 - values[0], values[0]];
  if (kind === "scores") return values;
  if (kind === "logits") {
    const largest = Math.max(...values);
    values = values.map((value) => Math.exp(value - largest));
  }
  const sum = values.reduce((total, value) => total + value, 0);
  return values.map((value) => (sum > 0 ? value / Math.max(sum, 1e-7) : 1 / values.length));
}
