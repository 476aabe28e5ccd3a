// A multilayer perceptron with ReLU between its layers, its mean squared error, and gradient descent on it.

// All layers in order, weight (row by row) before bias.
function unpack(sizes, packed) {
  const numbers = unpackFloats(packed);
  let at = 0;
  const take = (count) => numbers.slice(at, (at += count));
  return sizes.slice(1).map((rows, i) => ({ rows, columns: sizes[i], weight: take(rows * sizes[i]), bias: take(rows) }));
}

// The input of every layer, then the output.
function activations(layers, x) {
  const values = [Float64Array.of(x)];
  layers.forEach(({ rows, columns, weight, bias }, depth) => {
    const [input, output] = [values[depth], new Float64Array(rows)];
    for (let i = 0; i < rows; i += 1) {
      let sum = bias[i];
      for (let j = 0; j < columns; j += 1) sum += weight[i * columns + j] * input[j];
      output[i] = depth < layers.length - 1 && sum < 0 ? 0 : sum;
    }
    values.push(output);
  });
  return values;
}

function predict(layers, xs) {
  return xs.map((x) => activations(layers, x).at(-1)[0]);
}

// One step down the mean squared error over the points (xs, ys); `layers` is left as it was.
function descendOnce(layers, xs, ys, learningRate) {
  const updated = layers.map((layer) => ({ ...layer, weight: layer.weight.slice(), bias: layer.bias.slice() }));
  xs.forEach((x, n) => {
    const values = activations(layers, x);
    let back = Float64Array.of((2 * (values.at(-1)[0] - ys[n])) / xs.length);
    for (let depth = layers.length - 1; depth >= 0; depth -= 1) {
      const { rows, columns, weight } = layers[depth];
      const below = new Float64Array(columns);
      for (let i = 0; i < rows; i += 1) {
        updated[depth].bias[i] -= learningRate * back[i];
        for (let j = 0; j < columns; j += 1) {
          updated[depth].weight[i * columns + j] -= learningRate * back[i] * values[depth][j];
          below[j] += weight[i * columns + j] * back[i];
        }
      }
      back = depth ? below.map((value, j) => (values[depth][j] > 0 ? value : 0)) : below;
    }
  });
  return updated;
}

function adapt(layers, xs, ys, learningRate, steps) {
  let adapted = layers;
  for (let k = 0; k < steps; k += 1) adapted = descendOnce(adapted, xs, ys, learningRate);
  return adapted;
}
