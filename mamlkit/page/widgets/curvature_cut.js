// Quadratic tasks under a rule that follows the mean of (I − cαA) g′: first order at c = 0, MAML at c = 1.

// A (I − αA)(I − cαA), the weight of a task and its share of the outer curvature.
function keptWeight(A, innerLr, kept) {
  return product(product(A, lessTimes(A, innerLr)), lessTimes(A, kept * innerLr));
}

// The lowest eigenvalue of the mean weight: where it is negative, the rule runs away.
function lowestBend(curvatures, innerLr, kept) {
  return eigenvalues(sumOf(curvatures.map((A) => keptWeight(A, innerLr, kept))))[0] / curvatures.length;
}

function restOf(curvatures, optima, innerLr, kept) {
  return commonOptimum(curvatures.map((A) => keptWeight(A, innerLr, kept)), optima);
}

function lossAfterStep(curvatures, optima, innerLr, theta) {
  return mean(curvatures.map((A, i) => lossAt(A, optima[i], innerStep(A, optima[i], theta, innerLr))));
}

function followedPath(curvatures, optima, innerLr, kept, start, metaLr, metaSteps) {
  const weights = curvatures.map((A) => keptWeight(A, innerLr, kept));
  const path = [start];
  for (let t = 0; t < metaSteps; t += 1) {
    const step = (theta, W, i) => plus(theta, -metaLr / weights.length, times(W, plus(path[t], -1, optima[i])));
    path.push(weights.reduce(step, path[t]));
  }
  return path;
}

// The least share with which the rule comes to rest, or 0 where first order does.
function leastKept(curvatures, innerLr) {
  if (lowestBend(curvatures, innerLr, 0) > 0) return 0;
  let [low, high] = [0, 1];
  for (let i = 0; i < 50; i += 1) {
    const middle = (low + high) / 2;
    if (lowestBend(curvatures, innerLr, middle) > 0) high = middle;
    else low = middle;
  }
  return high;
}

function render({ model, el }) {
  const { curvatures, optima, names, x, y, max_inner_lr: maxInnerLr, meta_lr: metaLr, meta_steps: metaSteps } = model.get("settings");
  const plane = new Plane({ label: "The plane of parameters", x, y, equal: true, aspect: 0.8, xLabel: "θ₁", yLabel: "θ₂", grid: false });
  const factor = new Plane({ label: "Weight of a direction, divided by its curvature", x: [0, 2], y: [-1.1, 1.3], aspect: 0.8, xLabel: "α × curvature", yLabel: "weight ÷ curvature" });
  const contours = curvatures.map((_, i) => [0.15, 0.6].map((level) => [level, put(plane.line(`task_${i}`, "thin"), { opacity: 0.5 })]));
  const bottoms = optima.map((_, i) => plane.mark(`task_${i}`, "cross", 6));
  const [locus, walk] = [plane.line("soft", "quiet", "dotted"), plane.line("ink")];
  const rests = {
    joint: plane.mark("joint", "square", 6),
    first: plane.mark("first", "triangle", 9),
    maml: plane.mark("maml", "star", 11),
    here: plane.mark("ink", "dot", 6),
  };
  const zero = factor.line("soft", "thin", "quiet");
  const bends = { first: factor.line("first", "thin", "dashed"), maml: factor.line("maml", "thin"), here: factor.line("ink") };
  const spots = curvatures.map((_, i) => [0, 1].map(() => factor.mark(`task_${i}`, "dot", 6)));
  const grip = handle(plane, { label: "start of the descent", moved: (place) => store(model, { start: place.map(rounded) }) });
  const said = finding();
  const aim = goal("at a rate with which first order runs away, keep as little of the curvature as still lets the descent come to rest, to 0.02.");

  begin(
    model, el, "turn c, or drag the start",
    sideBySide(plane, factor),
    key([
      ["ink", "dot", "share c kept: descent, and where it rests"],
      ["first", "triangle", "first order, c = 0"],
      ["maml", "star", "MAML, c = 1"],
      ["joint", "square", "joint training"],
      ...names.map((name, i) => [`task_${i}`, "cross", name]),
    ]),
    controls(
      slider(model, "kept", { label: "curvature kept c", min: 0, max: 1, step: 0.01, format: fixed(2) }),
      slider(model, "inner_lr", { label: "rate α", min: 0, max: maxInnerLr, step: maxInnerLr / 70, format: fixed(3) }),
    ),
    said.node,
    aim.node,
  );

  keepDrawn(model, el, ["inner_lr", "kept", "start"], [plane, factor], ({ inner_lr: innerLr, kept, start }) => {
    const bend = (share) => lowestBend(curvatures, innerLr, share);
    const rest = (share) => (bend(share) > 1e-9 ? restOf(curvatures, optima, innerLr, share) : null);
    const places = { joint: commonOptimum(curvatures, optima), first: rest(0), maml: rest(1), here: rest(kept) };
    const path = followedPath(curvatures, optima, innerLr, kept, start, metaLr, metaSteps);
    const after = (place) => number(lossAfterStep(curvatures, optima, innerLr, place));
    const factorAt = (share, far) => [far, (1 - far) * (1 - share * far)];

    curvatures.forEach((A, i) => {
      for (const [level, node] of contours[i]) put(node, { d: plane.path(ellipse(A, optima[i], level)) });
      plane.put(bottoms[i], optima[i]);
      eigenvalues(A).forEach((curvature, j) => factor.put(spots[i][j], factorAt(kept, innerLr * curvature)));
    });
    put(locus, { d: plane.path(range(101, (i) => rest(i / 100)).filter(Boolean)) });
    put(walk, { d: plane.path(path) });
    for (const [name, node] of Object.entries(rests)) plane.put(node, places[name]);
    put(zero, { d: factor.path([[0, 0], [2, 0]]) });
    for (const [name, share] of [["first", 0], ["maml", 1], ["here", kept]]) put(bends[name], { d: factor.path(range(101, (i) => factorAt(share, i / 50))) });
    grip.show(...start, `start of the descent at ${point(start)}`);

    const needed = leastKept(curvatures, innerLr);
    aim.reached(needed > 0 && kept >= needed && kept <= needed + 0.02);
    const share = kept === 0 ? "first order (c = 0)" : kept === 1 ? "MAML (c = 1)" : `the share ${kept.toFixed(2)} of the curvature`;
    const others = [["first order", kept !== 0 && places.first], ["MAML", kept !== 1 && places.maml]].filter(([, place]) => place).map(([name, place]) => `${after(place)} for ${name}`);
    said.say(
      places.here
        ? `α = ${innerLr.toFixed(3)}, ${share}: its resting point is ${point(places.here)}, with the loss ${after(places.here)} after a step` + (others.length ? `; it is ${others.join(" and ")}.` : ".") + (places.first ? "" : " First order runs away at this rate.")
        : `α = ${innerLr.toFixed(3)}, ${share}: a direction has the outer curvature ${number(bend(kept))}. The descent runs away and is ${number(Math.hypot(...path.at(-1)))} from the origin after ${metaSteps} meta-steps.` + (kept > 0 ? " This share of the curvature is not yet enough." : ""),
    );
  });
}
