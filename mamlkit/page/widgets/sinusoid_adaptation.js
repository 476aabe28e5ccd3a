// Networks that meet a new sinusoid: before and after a few gradient steps on a handful of points.

function render({ model, el }) {
  const { networks, max_steps: maxSteps, max_shots: maxShots } = model.get("settings");
  const nets = networks.map((network) => ({ ...network, layers: unpack(network.sizes, network.weights) }));
  const plane = new Plane({ label: "The sinusoid, the support points and the networks' curves", x: [-5, 5], y: [-6, 6], aspect: 0.56, xLabel: "x", yLabel: "y" });
  const grid = Array.from({ length: 201 }, (_, i) => -5 + i / 20);
  const truth = shape("path", { class: "maml-line maml-dashed", style: colour("truth") });
  plane.inside.append(truth);
  const curves = nets.map(({ look }) => {
    const pair = [shape("path", { class: "maml-line maml-thin maml-dotted", style: colour(look) }), shape("path", { class: "maml-line", style: colour(look) })];
    plane.inside.append(...pair);
    return pair;
  });

  // A support point is [x, how far it lies above the sinusoid], so it rides along when the task changes.
  const sine = (x) => model.get("amplitude") * Math.sin(x - model.get("phase"));
  const support = () => model.get("support").map(([x, above]) => [x, sine(x) + above]);
  const rounded = (value) => Math.round(value * 1000) / 1000;
  const replaced = (index, pair) => store(model, { support: model.get("support").map((old, i) => (i === index ? pair.map(rounded) : old)) });
  let grips = [];
  const growGrips = () => {
    const count = model.get("support").length;
    while (grips.length > count) grips.pop().node.remove();
    while (grips.length < count) {
      const index = grips.length;
      grips.push(
        handle(plane, {
          label: `support point ${index + 1}`,
          look: "support",
          glyph: "triangle",
          step: 0.1,
          moved([x, y]) {
            const above = y - sine(x);
            replaced(index, [x, Math.abs(above) < 0.35 ? 0 : above]);
          },
          keyed([x, y], way) {
            const [oldX, above] = model.get("support")[index];
            replaced(index, [x, way[1] ? above + y - (sine(oldX) + above) : above]);
          },
        }),
      );
    }
  };

  const drawX = () => {
    const half = model.get("half_range");
    return rounded(half ? 5 * Math.random() : -5 + 10 * Math.random());
  };
  const fresh = () => store(model, { support: model.get("support").map(() => [drawX(), 0]) });
  const shots = element("input", { type: "range", min: 1, max: maxShots, step: 1 });
  const shotsShown = element("span", { class: "maml-value" });
  shots.addEventListener("input", () => {
    const kept = model.get("support").slice(0, Number(shots.value));
    while (kept.length < Number(shots.value)) kept.push([drawX(), 0]);
    store(model, { support: kept });
  });
  model.on("change:half_range", fresh);
  const said = finding();
  const errors = table(["network", "before", "after"], "Mean squared error against the sinusoid on −5 ≤ x ≤ 5");

  begin(
    model, el,
    plane.frame,
    key([["truth", "dashed", "the sinusoid"], ["support", "triangle", "support points"], ...nets.flatMap(({ look, label }) => [[look, "line", `${label}, after`], [look, "dotted", `${label}, before`]])]),
    element(
      "div", { class: "maml-controls" },
      slider(model, "inner_steps", { label: "gradient steps", min: 0, max: maxSteps, step: 1, format: String }),
      element("label", { class: "maml-slider" }, element("span", {}, "support points"), shots, shotsShown),
      slider(model, "amplitude", { label: "amplitude", min: 0.1, max: 5, step: 0.1, format: (value) => value.toFixed(1) }),
      slider(model, "phase", { label: "phase", min: 0, max: 3.14, step: 0.02, format: (value) => value.toFixed(2) }),
      button("New points", fresh),
      tickBox(model, "half_range", "only the right half"),
    ),
    said.node,
    errors.node,
  );

  keepDrawn(model, ["support", "amplitude", "phase", "inner_steps"], [plane], () => {
    growGrips();
    const points = support();
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const steps = model.get("inner_steps");
    const wanted = grid.map(sine);
    put(truth, { d: plane.path(grid.map((x, i) => [x, wanted[i]])) });
    const error = (values) => values.reduce((sum, value, i) => sum + (value - wanted[i]) ** 2, 0) / values.length;
    const results = nets.map(({ layers, look, label, inner_lr: innerLr }, i) => {
      const before = predict(layers, grid);
      const after = predict(adapt(layers, xs, ys, innerLr, steps), grid);
      put(curves[i][0], { d: plane.path(grid.map((x, j) => [x, before[j]])) });
      put(curves[i][1], { d: plane.path(grid.map((x, j) => [x, after[j]])) });
      return { look, label, before: error(before), after: error(after) };
    });
    grips.forEach((grip, i) => grip.show(...points[i], `x ${number(points[i][0])}, y ${number(points[i][1])}`));
    shots.value = points.length;
    shotsShown.textContent = points.length;
    shots.setAttribute("aria-valuetext", `${points.length} support points`);
    errors.fill(results.map(({ look, label, before, after }) => [look, label, number(before), number(after)]));
    const stepText = steps === 1 ? "1 gradient step" : `${steps} gradient steps`;
    const pointText = points.length === 1 ? "1 point" : `${points.length} points`;
    said.say(
      `After ${stepText} on ${pointText} the mean squared error is ` +
        results.map(({ label, before, after }) => `${number(after)} for ${label} (${number(before)} before)`).join(", ") + ".",
    );
  });
}
