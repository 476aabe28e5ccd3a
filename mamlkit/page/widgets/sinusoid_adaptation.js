// Networks that meet a new sinusoid: before and after a few gradient steps on a handful of points.

function render({ model, el }) {
  const { networks, max_steps: maxSteps, max_shots: maxShots } = model.get("settings");
  const nets = networks.map((network) => ({ ...network, layers: unpack(network.sizes, network.weights) }));
  const plane = new Plane({ label: "The sinusoid, the support points and the networks' curves", x: [-5, 5], y: [-6, 6], aspect: 0.56, xLabel: "x", yLabel: "y" });
  const grid = range(201, (i) => -5 + i / 20);
  const truth = plane.line("truth", "dashed");
  const curves = nets.map(({ look }) => [plane.line(look, "thin", "dotted"), plane.line(look)]);

  // A support point is [x, how far it lies above the sinusoid], so it rides along when the task changes.
  const sine = (x) => model.get("amplitude") * Math.sin(x - model.get("phase"));
  const support = () => model.get("support").map(([x, above]) => [x, sine(x) + above]);
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
          kind: "triangle",
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

  const drawn = () => [rounded(model.get("half_range") ? 5 * Math.random() : -5 + 10 * Math.random()), 0];
  const fresh = () => store(model, { support: model.get("support").map(drawn) });
  model.on("change:half_range", fresh);
  const said = finding();
  const aim = goal(`with one gradient step on two points, take the error of ${nets[0].label} to a quarter of what it was.`);
  const errors = table(["network", "before", "after"], "Mean squared error against the sinusoid on −5 ≤ x ≤ 5");

  begin(
    model, el, "drag the points",
    plane.frame,
    key([["truth", "dashed", "the sinusoid"], ["support", "triangle", "support points"], ...nets.flatMap(({ look, label }) => [[look, "line", `${label}, after`], [look, "dotted", `${label}, before`]])]),
    controls(
      slider(model, "inner_steps", { label: "gradient steps", min: 0, max: maxSteps, step: 1, format: String }),
      slider(model, "support", {
        label: "support points", min: 1, max: maxShots, step: 1, format: (points) => points.length,
        read: (points) => points.length,
        write: (count) => range(count, (i) => model.get("support")[i] ?? drawn()),
      }),
      slider(model, "amplitude", { label: "amplitude", min: 0.1, max: 5, step: 0.1, format: fixed(1) }),
      slider(model, "phase", { label: "phase", min: 0, max: 3.14, step: 0.02, format: fixed(2) }),
      button("New points", fresh),
      tickBox(model, "half_range", "only the right half"),
    ),
    aim.node,
    said.node,
    errors.node,
  );

  keepDrawn(model, el, ["half_range", "support", "amplitude", "phase", "inner_steps"], [plane], ({ inner_steps: steps }) => {
    growGrips();
    const points = support();
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const wanted = grid.map(sine);
    const curve = (values) => ({ d: plane.path(grid.map((x, i) => [x, values[i]])) });
    const error = (values) => mean(values.map((value, i) => (value - wanted[i]) ** 2));
    put(truth, curve(wanted));
    const results = nets.map(({ layers, look, label, inner_lr: innerLr }, i) => {
      const before = predict(layers, grid);
      const after = predict(adapt(layers, xs, ys, innerLr, steps), grid);
      put(curves[i][0], curve(before));
      put(curves[i][1], curve(after));
      return { look, label, before: error(before), after: error(after) };
    });
    grips.forEach((grip, i) => grip.show(...points[i], `x ${number(points[i][0])}, y ${number(points[i][1])}`));
    errors.fill(results.map(({ look, label, before, after }) => [look, label, number(before), number(after)]));
    aim.reached(steps === 1 && points.length === 2 && results[0].after <= results[0].before / 4);
    said.say(
      `After ${counted(steps, "gradient step")} on ${counted(points.length, "point")} the mean squared error is ` +
        results.map(({ label, before, after }) => `${number(after)} for ${label} (${number(before)} before)`).join(", ") + ".",
    );
  });
}
