// Two networks mixed along the straight line between their weights, and gradient steps from the mix.

function withNumbers(layers, change) {
  return layers.map((layer, depth) => ({ ...layer, ...change(layer, depth) }));
}

// (1 − share) a + share b
function mixed(a, b, share) {
  const mix = (p, q) => p.map((value, i) => (1 - share) * value + share * q[i]);
  return withNumbers(a, ({ weight, bias }, depth) => ({ weight: mix(weight, b[depth].weight), bias: mix(bias, b[depth].bias) }));
}

// The same function with the units of each hidden layer in the given order.
function shuffled(layers, orders) {
  return withNumbers(layers, ({ rows, columns, weight, bias }, depth) => {
    const [row, column] = [orders[depth], orders[depth - 1]];
    const from = (n) => (row ? row[Math.floor(n / columns)] : Math.floor(n / columns)) * columns + (column ? column[n % columns] : n % columns);
    return { weight: weight.map((_, n) => weight[from(n)]), bias: bias.map((_, i) => bias[row ? row[i] : i]) };
  });
}

function meanSquare(layers, xs, ys) {
  return mean(predict(layers, xs).map((value, n) => (value - ys[n]) ** 2));
}

// The two networks at the ends of the line: 0 a network and its twin, 1 from two starts, 2 from one start on every other point.
function endsOf(pair, starts, orders, [xs, ys], innerLr, steps) {
  const learned = (start, keep = () => true) => adapt(start, xs.filter((_, n) => keep(n)), ys.filter((_, n) => keep(n)), innerLr, steps);
  if (pair === 2) return [0, 1].map((half) => learned(starts[0], (n) => n % 2 === half));
  const first = learned(starts[0]);
  return [first, pair === 1 ? learned(starts[1]) : shuffled(first, orders)];
}

function render({ model, el }) {
  const { sizes, starts: given, orders, tasks, inner_lr: innerLr, inner_steps: innerSteps, max_more: maxMore } = model.get("settings");
  const starts = given.map((weights) => unpack(sizes, weights));
  const names = ["a network and its shuffled twin", "networks from two MAML starts", "networks from one MAML start"];
  const places = range(41, (i) => i / 40);
  const xs = range(101, (i) => -5 + i / 10);
  const height = (error) => clamp(Math.log10(error), [-3, 2]);
  const power = (exponent) => (exponent === Math.round(exponent) ? tick(10 ** exponent) : "");
  const line = new Plane({ label: "Error on the line between the two networks, on a logarithmic scale", x: [0, 1], y: [-2.4, 1.5], aspect: 0.78, xLabel: "from one network (0) to the other (1)", yLabel: "mean squared error", yTick: power });
  const drawing = new Plane({ label: "The sinusoid and what the networks say", x: [-5, 5], y: [-6, 6], aspect: 0.78, xLabel: "x", yLabel: "y" });
  const curves = { start: line.line("start", "thin", "dashed"), after: line.line("after"), mix: line.line("mix") };
  const functions = { truth: drawing.line("truth", "thin"), start: drawing.line("start", "thin", "dashed"), after: drawing.line("after"), mix: drawing.line("mix") };
  const points = tasks[0][0].map(() => drawing.mark("truth", "triangle", 7));
  const stepped = line.mark("after", "dot", 5);
  const choose = (share) => store(model, { share: Math.round(clamp(share, [0, 1]) * 100) / 100 });
  const grip = handle(line, { label: "place on the line", look: "mix", step: 0.02, moved: ([share]) => choose(share), keyed: ([share]) => choose(share) });
  const said = finding();
  const aim = goal("mix half and half (0.45 to 0.55), and let the mix err no more than the worse of its two networks.");
  const memory = {};  // curves by what they depend on

  begin(
    model, el, "drag along the line",
    choice(model, "pair", "The two networks", ["shuffled twin", "two MAML starts", "one MAML start"].map((name, i) => [i, name])),
    sideBySide(line, drawing),
    key([["mix", "line", "the mix"], ["after", "line", "after steps from the mix"], ["start", "dashed", "as many steps from MAML's start"], ["truth", "line", "the task"], ["truth", "triangle", "support points"]]),
    controls(
      slider(model, "share", { label: "second's share", min: 0, max: 1, step: 0.01, format: fixed(2) }),
      slider(model, "more_steps", { label: "steps from there", min: 0, max: maxMore, step: 1, format: String }),
      button("Next task", () => store(model, { task: (model.get("task") + 1) % tasks.length })),
    ),
    said.node,
    aim.node,
  );
  keepDrawn(model, el, ["share", "pair", "more_steps", "task"], [line, drawing], ({ share, pair, more_steps: steps, task: which }) => {
    const [supportX, supportY, queryX, queryY] = tasks[which];
    const error = (layers) => meanSquare(layers, queryX, queryY);
    const step = (layers) => adapt(layers, supportX, supportY, innerLr, steps);
    const once = (name, compute) => (memory[name] ??= compute());
    const ends = once(`ends ${pair} ${which}`, () => endsOf(pair, starts, orders, [supportX, supportY], innerLr, innerSteps));
    const mixes = once(`mixes ${pair} ${which}`, () => places.map((place) => error(mixed(...ends, place))));
    const later = once(`later ${pair} ${which} ${steps}`, () => places.map((place) => error(step(mixed(...ends, place)))));
    const fromStart = once(`start ${which} ${steps}`, () => step(starts[0]));
    const mix = mixed(...ends, share);
    const after = step(mix);
    const [here, next, reference] = [mix, after, fromStart].map(error);

    for (const [name, errors] of [["mix", mixes], ["after", later]]) put(curves[name], { d: line.path(errors.map((value, i) => [places[i], height(value)])) });
    put(curves.start, { d: line.path([[0, height(reference)], [1, height(reference)]]) });
    const order = [...queryX, ...supportX].map((x, n) => [x, [...queryY, ...supportY][n]]).sort(([a], [b]) => a - b);
    put(functions.truth, { d: drawing.path(order) });
    for (const [name, layers] of [["mix", mix], ["after", after], ["start", fromStart]]) {
      put(functions[name], { d: drawing.path(predict(layers, xs).map((y, i) => [xs[i], y])) });
    }
    points.forEach((node, n) => drawing.put(node, [supportX[n], supportY[n]]));
    line.put(stepped, [share, height(next)]);
    grip.show(share, height(here), `share ${share.toFixed(2)} of the second network: error ${number(here)}`);
    const worse = Math.max(error(ends[0]), error(ends[1]));
    aim.reached(share >= 0.45 && share <= 0.55 && here <= worse);
    const barrier = Math.max(...mixes) - worse;
    said.say(
      `Task ${which + 1}, ${names[pair]}: they err ${number(error(ends[0]))} and ${number(error(ends[1]))}, their mix at ${share.toFixed(2)} errs ${number(here)}. ` +
        (barrier > 0.1 * worse ? `The line climbs ${number(barrier)} above the worse end: a barrier. ` : "No barrier lies between them. ") +
        (steps ? `${counted(steps, "step")} from the mix ${steps > 1 ? "lead" : "leads"} to ${number(next)}, from MAML's start to ${number(reference)}.` : `No step is taken; MAML's start errs ${number(reference)}.`),
    );
  });
}
