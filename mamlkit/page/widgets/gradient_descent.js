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
    x: [0, steps], y: [-4, 2], aspect: 0.8, xLabel: "step k", yLabel: "distance |xₖ|", yTick: powerOfTen,
  });
  const [curve, hops] = [valley.line("soft", "quiet"), valley.line("path", "thin")];
  const [level, decay] = [speed.line("soft", "quiet", "dashed"), speed.line("path")];
  const [dots, beads] = [valley, speed].map((plane) => plane.inside.appendChild(shape("g", { style: colour("path") })));
  const said = finding();
  const aim = goal("choose a step size at which x changes sides with every step and still ends nearer to the minimum than 0.001.");
  const begins = (start) => store(model, { start: clamp(Math.round(start * 100) / 100, [-2.4, 2.4]) });
  const grip = handle(valley, {
    label: "Start x₀",
    look: "path",
    moved: ([x]) => begins(x),
    keyed: ([x, y], way) => {
      const start = model.get("start");
      begins(way[1] ? start + way[1] * Math.abs(y - start ** 2) : x);
    },
  });

  begin(
    model, el, "drag the points",
    sideBySide(valley, speed),
    controls(
      slider(model, "step_size", { label: "step size η", min: 0.05, max: 1.1, step: 0.01, format: fixed(2) }),
      slider(model, "start", { label: "start x₀", min: -2.4, max: 2.4, step: 0.01 }),
    ),
    aim.node,
    said.node,
  );

  keepDrawn(model, el, ["step_size", "start"], [valley, speed], ({ step_size: stepSize, start }) => {
    const visited = descend(start, stepSize, steps);
    const factor = 1 - 2 * stepSize;
    const onParabola = (x) => [x, x * x];
    const logs = visited.map((x, k) => [k, Math.log10(Math.max(Math.abs(x), 1e-9))]);
    put(curve, { d: valley.path(range(81, (i) => onParabola(-2.6 + (5.2 * i) / 80))) });
    put(hops, { d: valley.path(visited.map(onParabola)) });
    dots.replaceChildren(...valley.dots(visited.map(onParabola), 4));
    put(decay, { d: speed.path(logs) });
    beads.replaceChildren(...speed.dots(logs, 3.5));
    put(level, { d: speed.path([[0, logs[0][1]], [steps, logs[0][1]]]) });
    grip.show(start, start * start, `start at ${number(start)}`);
    aim.reached(start !== 0 && factor < -1e-9 && Math.abs(visited[steps]) < 1e-3);
    said.say(
      `Step size η = ${stepSize.toFixed(2)}: every step multiplies x by 1 − 2η = ${number(factor)}, ` +
        `so |1 − 2η| = ${number(Math.abs(factor))} and ${verdict(stepSize)}. ` +
        `From x₀ = ${number(start)} the distance after ${counted(steps, "step")} is ${number(Math.abs(visited[steps]))}.`,
    );
  });
}
