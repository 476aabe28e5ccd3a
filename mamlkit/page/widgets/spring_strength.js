// A tanh network on its spring: the inner optimum by Newton's method, the implicit gradient by conjugate gradient.

function decode(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function inner(u, v) {
  return u.reduce((sum, value, i) => sum + value * v[i], 0);
}

function plus(u, factor, v) {
  return u.map((value, i) => value + factor * v[i]);
}

// What the network says of x: the values of each layer, and how they move along v.
function forward(sizes, theta, x, v) {
  const [values, moves] = [[Float64Array.of(x)], [new Float64Array(1)]];
  let at = 0;
  sizes.slice(1).forEach((rows, depth) => {
    const columns = sizes[depth];
    const [out, moved] = [new Float64Array(rows), new Float64Array(rows)];
    for (let i = 0; i < rows; i += 1) {
      out[i] = theta[at + rows * columns + i];
      moved[i] = v[at + rows * columns + i];
      for (let j = 0; j < columns; j += 1) {
        const n = at + i * columns + j;
        out[i] += theta[n] * values[depth][j];
        moved[i] += theta[n] * moves[depth][j] + v[n] * values[depth][j];
      }
      if (depth < sizes.length - 2) {
        out[i] = Math.tanh(out[i]);
        moved[i] *= 1 - out[i] ** 2;
      }
    }
    at += rows * (columns + 1);
    values.push(out);
    moves.push(moved);
  });
  return [values, moves];
}

// The mean squared error, its gradient, and the product of its Hessian with v.
function derivatives(sizes, theta, [xs, ys], v = new Float64Array(theta.length)) {
  const [gradient, product] = [new Float64Array(theta.length), new Float64Array(theta.length)];
  let loss = 0;
  xs.forEach((x, n) => {
    const [values, moves] = forward(sizes, theta, x, v);
    const miss = values.at(-1)[0] - ys[n];
    loss += miss ** 2 / xs.length;
    let [back, turn, end] = [Float64Array.of((2 * miss) / xs.length), Float64Array.of((2 * moves.at(-1)[0]) / xs.length), theta.length];
    for (let depth = sizes.length - 2; depth >= 0; depth -= 1) {
      const [rows, columns, below, moved] = [sizes[depth + 1], sizes[depth], values[depth], moves[depth]];
      const at = end - rows * (columns + 1);
      const [nextBack, nextTurn] = [new Float64Array(columns), new Float64Array(columns)];
      for (let i = 0; i < rows; i += 1) {
        gradient[at + rows * columns + i] += back[i];
        product[at + rows * columns + i] += turn[i];
        for (let j = 0; j < columns; j += 1) {
          const m = at + i * columns + j;
          gradient[m] += back[i] * below[j];
          product[m] += turn[i] * below[j] + back[i] * moved[j];
          nextBack[j] += theta[m] * back[i];
          nextTurn[j] += theta[m] * turn[i] + v[m] * back[i];
        }
      }
      back = nextBack.map((value, j) => value * (1 - below[j] ** 2));
      turn = nextTurn.map((value, j) => value * (1 - below[j] ** 2) - 2 * nextBack[j] * below[j] * moved[j]);
      end = at;
    }
  });
  return { loss, gradient, product };
}

// The solutions of Ax = b after 0, 1, 2, … steps, until nothing is left.
function conjugateGradient(times, b, steps) {
  let [x, residual, direction] = [b.map(() => 0), b, b];
  let [found, rr] = [[x], inner(b, b)];
  const enough = rr * 1e-28;
  for (let k = 0; k < steps && rr > enough; k += 1) {
    const image = times(direction);
    const step = rr / inner(direction, image);
    x = plus(x, step, direction);
    residual = plus(residual, -step, image);
    const before = rr;
    rr = inner(residual, residual);
    direction = plus(residual, rr / before, direction);
    found.push(x);
  }
  return found;
}

// The minimum of the support loss + λ/2 |φ − θ|², by Newton's method from φ.
function settled(sizes, theta, support, strength, phi) {
  for (let round = 0; round < 30; round += 1) {
    const slope = plus(derivatives(sizes, phi, support).gradient, strength, plus(phi, -1, theta));
    if (inner(slope, slope) < 1e-22) break;
    const held = (v) => plus(derivatives(sizes, phi, support, v).product, strength, v);
    phi = plus(phi, -1, conjugateGradient(held, slope, 300).at(-1));
  }
  return phi;
}

// From the strongest spring to the weakest: λ and the minimum on each.
function descentOfSprings(sizes, theta, support, weakest, strongest, count = 25) {
  let phi = theta;
  return Array.from({ length: count }, (_, i) => {
    const strength = strongest * (weakest / strongest) ** (i / (count - 1));
    phi = settled(sizes, theta, support, strength, phi);
    return { strength, phi };
  });
}

// How far the implicit gradient after k = 0, 1, … steps is from the exact one, over the length of the exact one.
function gradientErrors(sizes, phi, support, query, strength, steps) {
  const b = derivatives(sizes, phi, query).gradient;
  const held = (v) => plus(v, 1 / strength, derivatives(sizes, phi, support, v).product);
  const found = conjugateGradient(held, b, 300);
  const exact = found.at(-1);
  const off = (x) => Math.sqrt(inner(plus(x, -1, exact), plus(x, -1, exact)) / inner(exact, exact));
  return Array.from({ length: steps + 1 }, (_, k) => off(found[Math.min(k, found.length - 1)]));
}

// A plane whose horizontal axis holds powers of ten.
class Logarithmic extends Plane {
  drawAxes() {
    super.drawAxes();
    for (const node of this.axes.querySelectorAll('.maml-tick[text-anchor="middle"]')) node.textContent = number(10 ** Number(node.textContent.replace("−", "-")), 2);
  }
}

function render({ model, el }) {
  const { sizes, weights, task, weakest, strongest, max_steps: maxSteps } = model.get("settings");
  const [theta, support, query] = [decode(weights), task.slice(0, 2), task.slice(2)];
  const springs = descentOfSprings(sizes, theta, support, weakest, strongest);
  const errorsOf = (phi, strength) => gradientErrors(sizes, phi, support, query, strength, maxSteps);
  for (const spring of springs) spring.errors = errorsOf(spring.phi, spring.strength);
  const ends = [weakest, strongest].map(Math.log10);
  const reach = 1.15 * Math.max(...task[1].map(Math.abs), ...task[3].map(Math.abs));
  const price = new Logarithmic({ label: "Error of the implicit gradient against the strength of the spring, both logarithmic", x: ends, y: [-4, 0.3], aspect: 0.78, xLabel: "strength λ of the spring", yLabel: "error of the gradient", yTick: (value) => `${number(100 * 10 ** value, 1)} %` });
  const drawing = new Plane({ label: "The network's function and the task", x: [-5, 5], y: [-reach, reach], aspect: 0.78, xLabel: "x", yLabel: "y" });
  price.margin.left = 66;
  const xs = Array.from({ length: 101 }, (_, i) => -5 + i / 10);
  const says = (phi) => xs.map((x) => [x, forward(sizes, phi, x, new Float64Array(theta.length))[0].at(-1)[0]]);
  const path = (plane, look, style = "") => plane.inside.appendChild(shape("path", { class: `maml-line ${style}`, style: colour(look) }));
  const others = [1, 2, 4, 8].map((k) => [k, path(price, "soft", "maml-thin maml-dotted"), price.inside.appendChild(shape("text", { class: "maml-tick" }, `k = ${k}`))]);
  const limit = path(price, "soft", "maml-thin maml-dashed");
  const chosen = path(price, "settled");
  const functions = { start: path(drawing, "start", "maml-dashed"), settled: path(drawing, "settled") };
  const points = drawing.inside.appendChild(shape("g"));
  const turn = (power) => store(model, { strength: Number((10 ** clamp(power, ends)).toPrecision(3)) });
  const grip = handle(price, { label: "strength on the curve", look: "settled", step: 0.02, moved: ([power]) => turn(power), keyed: ([power]) => turn(power) });
  const power = { get: (name) => Math.log10(model.get(name)), set: (name, value) => model.set(name, Number((10 ** clamp(value, ends)).toPrecision(3))), on: (event, heard) => model.on(event, heard), save_changes: () => model.save_changes() };
  const said = finding();
  const aim = goal("let the inner loop halve the support loss, with a gradient that is within 1 %.");

  begin(
    model, el,
    element("div", { class: "maml-row" }, price.frame, drawing.frame),
    key([["settled", "line", "error after k conjugate gradient steps; function at the inner optimum"], ["soft", "dotted", "after 1, 2, 4, 8 steps"], ["start", "dashed", "the start"], ["support", "triangle", "support points"], ["truth", "dot", "query points"]]),
    element(
      "div", { class: "maml-controls" },
      slider(power, "strength", { label: "strength λ", min: ends[0], max: ends[1], step: 0.01, format: (value) => number(10 ** value) }),
      slider(model, "cg_steps", { label: "steps k", min: 1, max: maxSteps, step: 1, format: String }),
    ),
    said.node,
    aim.node,
  );
  el.querySelector(".maml-hint").textContent = "drag along the curve";

  keepDrawn(model, ["strength", "cg_steps"], [price, drawing], () => {
    const [strength, k] = ["strength", "cg_steps"].map((name) => model.get(name));
    const from = springs.filter((spring) => spring.strength >= strength * (1 - 1e-9)).at(-1) ?? springs[0];
    const phi = settled(sizes, theta, support, strength, from.phi);
    const errors = errorsOf(phi, strength);
    const [before, after] = [theta, phi].map((at) => derivatives(sizes, at, support).loss);
    const height = (error) => clamp(Math.log10(error), [-5, 1]);
    const curve = (steps) => springs.map((spring) => [Math.log10(spring.strength), height(spring.errors[steps])]);
    for (const [steps, node, label] of others) {
      put(node, { d: price.path(curve(steps)) });
      const [lowest] = curve(steps).filter(([, y]) => y > price.y[0] + 0.25);
      label.style.display = lowest ? "" : "none";
      if (!lowest) continue;
      const [across, down] = price.at(...lowest);
      put(label, { x: clamp(across, [44, price.across - 4]), y: down + 14, "text-anchor": "end" });
    }
    put(limit, { d: price.path([[ends[0], -2], [ends[1], -2]]) });
    put(chosen, { d: price.path(curve(k)) });
    for (const [name, at] of [["start", theta], ["settled", phi]]) put(functions[name], { d: drawing.path(says(at)) });
    points.replaceChildren(...[[support, "support", "M0 -7L6 5H-6Z"], [query, "truth", "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0Z"]].flatMap(([[x, y], look, d]) =>
      x.map((value, n) => shape("path", { d, class: "maml-dot maml-outlined", style: colour(look), transform: `translate(${drawing.at(value, y[n]).map((place) => place.toFixed(2)).join(" ")})` }))));
    grip.show(Math.log10(strength), clamp(height(errors[k]), price.y), `λ = ${number(strength)}: error ${number(100 * errors[k])} %`);
    const needed = errors.findIndex((error) => error <= 0.01);
    aim.reached(after <= before / 2 && errors[k] <= 0.01);
    const away = plus(phi, -1, theta);
    said.say(
      `λ = ${number(strength)}: the inner optimum lies ${number(Math.sqrt(inner(away, away)))} from the start and brings the support loss from ${number(before)} to ${number(after)}. ` +
        `${k} conjugate gradient step${k > 1 ? "s leave" : " leaves"} the gradient ${number(100 * errors[k])} % off; ` +
        (needed < 0 ? `${maxSteps} do not bring it within 1 %.` : `for 1 % it takes ${needed}.`),
    );
  });
}
