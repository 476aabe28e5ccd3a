// Gradient descent on f(x) = x²: one step multiplies x by 1 − 2η.

function descend(start, stepSize, steps) {
  const visited = [start];
  for (let k = 0; k < steps; k += 1) visited.push(visited[k] - stepSize * 2 * visited[k]);
  return visited;
}

function verdict(stepSize) {
  const factor = 1 - 2 * stepSize;
  if (Math.abs(factor) < 1e-9) return "one step lands on the minimum";
  if (Math.abs(factor + 1) < 1e-9) return "it jumps between two points for ever";
  if (factor < -1) return "it diverges";
  return factor < 0 ? "it jumps from side to side and converges" : "it converges from one side";
}

function render({ model, el }) {
  const { steps } = model.get("settings");
  const valley = new Plane({ label: "The parabola x² and the steps on it", x: [-2.5, 2.5], y: [-0.4, 6.25], aspect: 0.8, xLabel: "x", yLabel: "f(x) = x²" });
  const speed = new Plane({
    label: "Distance from the minimum after each step, on a logarithmic scale",
    x: [0, steps], y: [-4, 2], aspect: 0.8, xLabel: "step k", yLabel: "distance |xₖ|",
    yTick: (value) => "10" + String(value).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]),
  });
  const curve = shape("path", { class: "maml-line maml-quiet" });
  const hops = shape("path", { class: "maml-line maml-thin", style: colour("path") });
  const dots = shape("g", { style: colour("path") });
  valley.inside.append(curve, hops, dots);
  const decay = shape("path", { class: "maml-line", style: colour("path") });
  const level = shape("path", { class: "maml-line maml-quiet maml-dashed" });
  const beads = shape("g", { style: colour("path") });
  speed.inside.append(level, decay, beads);
  const said = finding();
  const limits = [-2.4, 2.4];
  const grip = handle(valley, {
    label: "Start x₀",
    look: "path",
    moved: ([x]) => store(model, { start: clamp(Math.round(x * 100) / 100, limits) }),
    keyed: ([x, y], way) => {
      const far = way[1] ? way[1] * Math.abs(y - model.get("start") ** 2) : x - model.get("start");
      store(model, { start: clamp(Math.round((model.get("start") + far) * 100) / 100, limits) });
    },
  });

  begin(
    model, el,
    element("div", { class: "maml-row" }, valley.frame, speed.frame),
    element(
      "div", { class: "maml-controls" },
      slider(model, "step_size", { label: "step size η", min: 0.05, max: 1.1, step: 0.01, format: (value) => value.toFixed(2) }),
      slider(model, "start", { label: "start x₀", min: -2.4, max: 2.4, step: 0.01, format: (value) => number(value) }),
    ),
    said.node,
  );

  keepDrawn(model, ["step_size", "start"], [valley, speed], () => {
    const [stepSize, start] = [model.get("step_size"), model.get("start")];
    const visited = descend(start, stepSize, steps);
    const factor = 1 - 2 * stepSize;
    const ends = Array.from({ length: 81 }, (_, i) => -2.6 + (5.2 * i) / 80);
    put(curve, { d: valley.path(ends.map((x) => [x, x * x])) });
    put(hops, { d: valley.path(visited.map((x) => [x, x * x])) });
    const dot = (plane, x, y, size) => {
      const [cx, cy] = plane.at(x, y);
      return Math.abs(cx) + Math.abs(cy) < 1e4 ? [shape("circle", { cx, cy, r: size, class: "maml-dot" })] : [];
    };
    dots.replaceChildren(...visited.flatMap((x) => dot(valley, x, x * x, 4)));
    const logs = visited.map((x, k) => [k, Math.log10(Math.max(Math.abs(x), 1e-9))]);
    put(decay, { d: speed.path(logs) });
    beads.replaceChildren(...logs.flatMap(([k, y]) => dot(speed, k, y, 3.5)));
    put(level, { d: speed.path([[0, logs[0][1]], [steps, logs[0][1]]]) });
    grip.show(start, start * start, `start at ${number(start)}`);
    said.say(
      `Step size η = ${stepSize.toFixed(2)}: every step multiplies x by 1 − 2η = ${number(factor)}, ` +
        `so |1 − 2η| = ${number(Math.abs(factor))} and ${verdict(stepSize)}. ` +
        `From x₀ = ${number(start)} the distance after ${steps} steps is ${number(Math.abs(visited[steps]))}.`,
    );
  });
}
