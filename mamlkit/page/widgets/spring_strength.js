// A tanh network on its spring: the inner optimum by Newton's method, the implicit gradient by conjugate gradient.

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

// The solutions of Ax = b after 0, 1, 2, … steps, until nothing is left or A curves downwards.
function conjugateGradient(times, b, steps) {
  let [x, residual, direction] = [b.map(() => 0), b, b];
  let [found, rr] = [[x], dot(b, b)];
  const enough = rr * 1e-28;
  for (let k = 0; k < steps && rr > enough; k += 1) {
    const image = times(direction);
    const bend = dot(direction, image);
    if (!(bend > 0)) break;
    const step = rr / bend;
    x = plus(x, step, direction);
    residual = plus(residual, -step, image);
    const before = rr;
    rr = dot(residual, residual);
    direction = plus(residual, rr / before, direction);
    found.push(x);
  }
  return found;
}

// The minimum of the support loss + λ/2 |φ − θ|², by Newton's method from φ; a step that does not lead down is halved.
function settled(sizes, theta, support, strength, phi, rounds = 300) {
  const held = (phi) => {
    const [{ loss, gradient }, away] = [derivatives(sizes, phi, support), plus(phi, -1, theta)];
    return { loss: loss + (strength / 2) * dot(away, away), slope: plus(gradient, strength, away) };
  };
  for (let round = 0; round < rounds; round += 1) {
    const { loss, slope } = held(phi);
    if (dot(slope, slope) < 1e-22) return phi;
    const curve = (v) => plus(derivatives(sizes, phi, support, v).product, strength, v);
    const newton = conjugateGradient(curve, slope, 300).at(-1);
    const way = dot(newton, slope) > 0 ? newton : slope;  // straight down, where that curves downwards at once
    let share = 1;
    while (share > 1e-9 && !(held(plus(phi, -share, way)).loss <= loss + 1e-12 * Math.abs(loss))) share /= 2;
    phi = plus(phi, -share, way);
  }
  throw new Error(`no inner optimum on a spring of strength ${strength} after ${rounds} Newton steps; give it a stronger weakest spring`);
}

// From the strongest spring to the weakest: λ and the minimum on each.
function descentOfSprings(sizes, theta, support, weakest, strongest, count = 25) {
  let phi = theta;
  return range(count, (i) => {
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
  return range(steps + 1, (k) => distance(found[Math.min(k, found.length - 1)], exact) / Math.hypot(...exact));
}

function render({ model, el }) {
  const { sizes, weights, task, weakest, strongest, max_steps: maxSteps } = model.get("settings");
  const [theta, support, query] = [unpackFloats(weights), task.slice(0, 2), task.slice(2)];
  const springs = descentOfSprings(sizes, theta, support, weakest, strongest);
  const errorsOf = (phi, strength) => gradientErrors(sizes, phi, support, query, strength, maxSteps);
  for (const spring of springs) spring.errors = errorsOf(spring.phi, spring.strength);
  const ends = [weakest, strongest].map(Math.log10);
  const reach = 1.15 * Math.max(...task[1].map(Math.abs), ...task[3].map(Math.abs));
  const price = new Plane({ label: "Error of the implicit gradient against the strength of the spring, both logarithmic", x: ends, y: [-4, 0.3], aspect: 0.78, xLabel: "strength λ of the spring", yLabel: "error of the gradient", xTick: (value) => number(10 ** value, 2), yTick: (value) => `${number(100 * 10 ** value, 1)} %`, left: 66 });
  const drawing = new Plane({ label: "The network's function and the task", x: [-5, 5], y: [-reach, reach], aspect: 0.78, xLabel: "x", yLabel: "y" });
  const xs = range(101, (i) => -5 + i / 10);
  const says = (phi) => xs.map((x) => [x, forward(sizes, phi, x, new Float64Array(theta.length))[0].at(-1)[0]]);
  const others = [1, 2, 4, 8].map((k) => [k, price.line("soft", "thin", "dotted"), price.inside.appendChild(shape("text", { class: "maml-tick", "text-anchor": "end" }, `k = ${k}`))]);
  const [limit, chosen] = [price.line("soft", "thin", "dashed"), price.line("settled")];
  const functions = { start: drawing.line("start", "dashed"), settled: drawing.line("settled") };
  const points = [["support", "triangle", 7, support], ["truth", "dot", 3, query]].flatMap(([look, kind, size, [x, y]]) => x.map((value, n) => [drawing.mark(look, kind, size), [value, y[n]]]));
  const strengthOf = (power) => Number((10 ** clamp(power, ends)).toPrecision(3));
  const grip = handle(price, { label: "strength on the curve", look: "settled", step: 0.02, moved: ([power]) => store(model, { strength: strengthOf(power) }) });
  const said = finding();
  const aim = goal("let the inner loop halve the support loss, with a gradient that is within 1 %.");

  begin(
    model, el, "drag along the curve",
    sideBySide(price, drawing),
    key([["settled", "line", "error after k conjugate gradient steps; function at the inner optimum"], ["soft", "dotted", "after 1, 2, 4, 8 steps"], ["start", "dashed", "the start"], ["support", "triangle", "support points"], ["truth", "dot", "query points"]]),
    controls(
      slider(model, "strength", { label: "strength λ", min: ends[0], max: ends[1], step: 0.01, read: Math.log10, write: strengthOf }),
      slider(model, "cg_steps", { label: "steps k", min: 1, max: maxSteps, step: 1, format: String }),
    ),
    said.node,
    aim.node,
  );
  keepDrawn(model, el, ["strength", "cg_steps"], [price, drawing], ({ strength, cg_steps: k }) => {
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
      put(label, { x: clamp(across, [44, price.across - 4]), y: down + 14 });
    }
    put(limit, { d: price.path([[ends[0], -2], [ends[1], -2]]) });
    put(chosen, { d: price.path(curve(k)) });
    for (const [name, at] of [["start", theta], ["settled", phi]]) put(functions[name], { d: drawing.path(says(at)) });
    for (const [node, place] of points) drawing.put(node, place);
    grip.show(Math.log10(strength), clamp(height(errors[k]), price.y), `λ = ${number(strength)}: error ${number(100 * errors[k])} %`);
    const needed = errors.findIndex((error) => error <= 0.01);
    aim.reached(after <= before / 2 && errors[k] <= 0.01);
    said.say(
      `λ = ${number(strength)}: the inner optimum lies ${number(distance(phi, theta))} from the start and brings the support loss from ${number(before)} to ${number(after)}. ` +
        `${counted(k, "conjugate gradient step")} ${k > 1 ? "leave" : "leaves"} the gradient ${number(100 * errors[k])} % off; ` +
        (needed < 0 ? `${maxSteps} do not bring it within 1 %.` : `for 1 % it takes ${needed}.`),
    );
  });
}
