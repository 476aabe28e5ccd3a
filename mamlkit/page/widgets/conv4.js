// The convolutional network of few-shot learning: four blocks of a 3 × 3 convolution of stride 2, batch normalisation and
// ReLU, the mean over places, a linear head; its cross-entropy, and gradient descent on it. Batches share their statistics.

function fromHalf(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

// The half-precision numbers of all layers in order: of each block kernels, scale and shift, then the head's weight and bias.
function unpackConv4(packed, channels, nWay) {
  const bytes = unpackBytes(packed);
  let offset = 0;
  const take = (count) => Float64Array.from({ length: count }, () => fromHalf(bytes[offset++] | (bytes[offset++] << 8)));
  const blocks = [1, channels, channels, channels].map((inputs) => ({ kernels: take(channels * inputs * 9), scale: take(channels), shift: take(channels) }));
  return { blocks, weight: take(nWay * channels), bias: take(nWay) };
}

// Calls visit(input's place, output's place, kernel's place) for all that a kernel touches in one plane.
function everyTouch(side, out, visit) {
  for (let row = 0; row < out; row += 1) {
    for (let column = 0; column < out; column += 1) {
      for (let k = 0; k < 9; k += 1) {
        const [y, x] = [2 * row + ((k / 3) | 0) - 1, 2 * column + (k % 3) - 1];
        if (y >= 0 && y < side && x >= 0 && x < side) visit(y * side + x, row * out + column, k);
      }
    }
  }
}

const touched = {};
function touches(side, out) {
  if (!touched[side]) {
    const flat = [];
    everyTouch(side, out, (...place) => flat.push(...place));
    touched[side] = Int32Array.from(flat);
  }
  return touched[side];
}

// n maps of `side` pixels, channels outermost in each image, to n maps of half the side.
function convolve(x, kernels, n, inputs, channels, side, out) {
  const u = new Float64Array(n * channels * out * out);
  const places = touches(side, out);
  for (let image = 0; image < n; image += 1) {
    for (let c = 0; c < channels; c += 1) {
      const to = (image * channels + c) * out * out;
      for (let d = 0; d < inputs; d += 1) {
        const [from, kernel] = [(image * inputs + d) * side * side, (c * inputs + d) * 9];
        for (let t = 0; t < places.length; t += 3) u[to + places[t + 1]] += kernels[kernel + places[t + 2]] * x[from + places[t]];
      }
    }
  }
  return u;
}

// Each channel to mean 0 and variance 1 over all places of all images; and one over its standard deviation.
function standardise(u, n, channels, area) {
  const [normed, inverse] = [new Float64Array(u.length), new Float64Array(channels)];
  for (let c = 0; c < channels; c += 1) {
    let [sum, squares] = [0, 0];
    const over = (act) => {
      for (let image = 0; image < n; image += 1) for (let i = (image * channels + c) * area, end = i + area; i < end; i += 1) act(i);
    };
    over((i) => (sum += u[i]));
    const mean = sum / (n * area);
    over((i) => (squares += (u[i] - mean) ** 2));
    inverse[c] = 1 / Math.sqrt(squares / (n * area) + 1e-5);
    over((i) => (normed[i] = (u[i] - mean) * inverse[c]));
  }
  return { normed, inverse };
}

// Logits (n × nWay), and what the way back needs. `images` are n × 28 × 28.
function forwardConv4({ blocks, weight, bias }, images, n) {
  const channels = blocks[0].scale.length;
  let [x, inputs, side] = [images, 1, Math.sqrt(images.length / n)];
  const steps = blocks.map(({ kernels, scale, shift }) => {
    const out = (side + 1) >> 1;
    const { normed, inverse } = standardise(convolve(x, kernels, n, inputs, channels, side, out), n, channels, out * out);
    const y = normed.map((value, i) => {
      const c = ((i / (out * out)) | 0) % channels;
      return Math.max(0, scale[c] * value + shift[c]);
    });
    const step = { x, y, normed, inverse, inputs, side, out };
    [x, inputs, side] = [y, channels, out];
    return step;
  });
  const area = side * side;
  const features = Float64Array.from({ length: n * channels }, (_, i) => x.subarray(i * area, (i + 1) * area).reduce((a, b) => a + b) / area);
  const nWay = bias.length;
  const logits = Float64Array.from({ length: n * nWay }, (_, i) => {
    const [image, label] = [(i / nWay) | 0, i % nWay];
    let sum = bias[label];
    for (let c = 0; c < channels; c += 1) sum += weight[label * channels + c] * features[image * channels + c];
    return sum;
  });
  return { logits, features, steps };
}

function softmax(logits) {
  const top = Math.max(...logits);
  const shares = Array.from(logits, (value) => Math.exp(value - top));
  const sum = shares.reduce((a, b) => a + b);
  return shares.map((value) => value / sum);
}

// One step down the mean cross-entropy of the images with these labels; `net` is left as it was.
function stepConv4(net, images, labels, learningRate) {
  const [n, nWay, channels] = [labels.length, net.bias.length, net.blocks[0].scale.length];
  const { logits, features, steps } = forwardConv4(net, images, n);
  const next = { blocks: [], weight: net.weight.slice(), bias: net.bias.slice() };
  const { out } = steps.at(-1);
  let back = new Float64Array(n * channels * out * out);
  for (let image = 0; image < n; image += 1) {
    softmax(logits.subarray(image * nWay, (image + 1) * nWay)).forEach((share, label) => {
      const slope = (share - (label === labels[image] ? 1 : 0)) / n;
      next.bias[label] -= learningRate * slope;
      for (let c = 0; c < channels; c += 1) {
        next.weight[label * channels + c] -= learningRate * slope * features[image * channels + c];
        const from = (image * channels + c) * out * out;
        for (let i = from; i < from + out * out; i += 1) back[i] += (slope * net.weight[label * channels + c]) / (out * out);
      }
    });
  }
  for (let depth = steps.length - 1; depth >= 0; depth -= 1) {
    const { kernels, scale, shift } = net.blocks[depth];
    const { x, y, normed, inverse, inputs, side: wide, out: small } = steps[depth];
    const [area, count] = [small * small, n * small * small];
    const updated = { kernels: kernels.slice(), scale: scale.slice(), shift: shift.slice() };
    for (let c = 0; c < channels; c += 1) {
      let [sum, product] = [0, 0];
      const over = (act) => {
        for (let image = 0; image < n; image += 1) for (let i = (image * channels + c) * area, end = i + area; i < end; i += 1) act(i);
      };
      over((i) => {
        if (y[i] <= 0) back[i] = 0;
        sum += back[i];
        product += back[i] * normed[i];
      });
      updated.shift[c] -= learningRate * sum;
      updated.scale[c] -= learningRate * product;
      over((i) => (back[i] = scale[c] * inverse[c] * (back[i] - sum / count - (normed[i] * product) / count)));
    }
    const below = new Float64Array(n * inputs * wide * wide);
    const places = touches(wide, small);
    for (let image = 0; image < n; image += 1) {
      for (let c = 0; c < channels; c += 1) {
        const to = (image * channels + c) * area;
        for (let d = 0; d < inputs; d += 1) {
          const [from, kernel] = [(image * inputs + d) * wide * wide, (c * inputs + d) * 9];
          for (let t = 0; t < places.length; t += 3) {
            const slope = back[to + places[t + 1]];
            updated.kernels[kernel + places[t + 2]] -= learningRate * slope * x[from + places[t]];
            below[from + places[t]] += slope * kernels[kernel + places[t + 2]];
          }
        }
      }
    }
    next.blocks.unshift(updated);
    back = below;
  }
  return next;
}
