// Quadratic tasks under a rule that follows the mean of (I − cαA) g′: first order at c = 0, MAML at c = 1.

// A (I − αA)(I − cαA), the weight of a task and its share of the outer curvature.
function keptWeight(A, innerLr, kept) {
  const less = (rate) => A.map((row, i) => row.map((value, j) => (i === j ? 1 : 0) - rate * value));
  return product(product(A, less(innerLr)), less(kept * innerLr));
}

function eigenvalues([[a, b], [, d]]) {
  const [middle, spread] = [(a + d) / 2, Math.hypot((a - d) / 2, b)];
  return [middle - spread, middle + spread];
}

function meanOf(matrices) {
  return [0, 1].map((i) => [0, 1].map((j) => matrices.reduce((sum, M) => sum + M[i][j] / matrices.length, 0)));
}

// The lowest eigenvalue of the mean weight: where it is negative, the rule runs away.
function lowestBend(curvatures, innerLr, kept) {
  return eigenvalues(meanOf(curvatures.map((A) => keptWeight(A, innerLr, kept))))[0];
}

function restOf(curvatures, optima, innerLr, kept) {
  return commonOptimum(curvatures.map((A) => keptWeight(A, innerLr, kept)), optima);
}

function lossAfterStep(curvatures, optima, innerLr, theta) {
  return curvatures.reduce((sum, A, i) => sum + lossAt(A, optima[i], innerStep(A, optima[i], theta, innerLr)) / curvatures.length, 0);
}

function followed(curvatures, optima, innerLr, kept, start, metaLr, metaSteps) {
  const weights = curvatures.map((A) => keptWeight(A, innerLr, kept));
  const path = [start];
  for (let t = 0; t < metaSteps; t += 1) {
    const theta = path[t];
    const pulls = weights.map((W, i) => times(W, [theta[0] - optima[i][0], theta[1] - optima[i][1]]));
    path.push([0, 1].map((j) => theta[j] - metaLr * pulls.reduce((sum, pull) => sum + pull[j] / weights.length, 0)));
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
  const valleys = curvatures.map((_, i) => shape("g", { style: colour(`task_${i}`) }));
  const locus = shape("path", { class: "maml-line maml-quiet maml-dotted" });
  const walk = shape("path", { class: "maml-line", style: colour("ink") });
  const rests = {
    joint: shape("rect", { x: -6, y: -6, width: 12, height: 12, class: "maml-dot maml-outlined", style: colour("joint") }),
    first: shape("path", { d: "M0 -9L8 6H-8Z", class: "maml-dot maml-outlined", style: colour("first") }),
    maml: shape("path", { d: star(11), class: "maml-dot maml-outlined", style: colour("maml") }),
    here: shape("circle", { r: 6, class: "maml-dot maml-outlined", style: colour("ink") }),
  };
  plane.inside.append(...valleys, locus, walk, ...Object.values(rests));
  const zero = shape("path", { class: "maml-line maml-thin maml-quiet" });
  const bends = { first: shape("path", { class: "maml-line maml-thin maml-dashed", style: colour("first") }), maml: shape("path", { class: "maml-line maml-thin", style: colour("maml") }), here: shape("path", { class: "maml-line", style: colour("ink") }) };
  const spots = shape("g");
  factor.inside.append(zero, ...Object.values(bends), spots);
  const grip = handle(plane, { label: "start of the descent", moved: (place) => store(model, { start: place.map((value) => Math.round(value * 1000) / 1000) }) });
  const said = finding();
  const aim = goal("at a rate with which first order runs away, keep as little of the curvature as still lets the descent come to rest, to 0.02.");

  begin(
    model, el,
    element("div", { class: "maml-row" }, plane.frame, factor.frame),
    key([
      ["ink", "dot", "share c kept: descent, and where it rests"],
      ["first", "triangle", "first order, c = 0"],
      ["maml", "star", "MAML, c = 1"],
      ["joint", "square", "joint training"],
      ...names.map((name, i) => [`task_${i}`, "cross", name]),
    ]),
    element(
      "div", { class: "maml-controls" },
      slider(model, "kept", { label: "curvature kept c", min: 0, max: 1, step: 0.01, format: (value) => value.toFixed(2) }),
      slider(model, "inner_lr", { label: "rate α", min: 0, max: maxInnerLr, step: maxInnerLr / 70, format: (value) => value.toFixed(3) }),
    ),
    said.node,
    aim.node,
  );
  el.querySelector(".maml-hint").textContent = "turn c, or drag the start";

  keepDrawn(model, ["inner_lr", "kept", "start"], [plane, factor], () => {
    const [innerLr, kept, start] = ["inner_lr", "kept", "start"].map((name) => model.get(name));
    const bend = (share) => lowestBend(curvatures, innerLr, share);
    const rest = (share) => (bend(share) > 1e-9 ? restOf(curvatures, optima, innerLr, share) : null);
    const places = { joint: commonOptimum(curvatures, optima), first: rest(0), maml: rest(1), here: rest(kept) };
    const path = followed(curvatures, optima, innerLr, kept, start, metaLr, metaSteps);
    const after = (place) => number(lossAfterStep(curvatures, optima, innerLr, place));

    valleys.forEach((layer, i) => {
      const [across, down] = plane.at(...optima[i]);
      layer.replaceChildren(
        ...[0.15, 0.6].map((level) => shape("path", { d: plane.path(ellipse(curvatures[i], optima[i], level)), class: "maml-line maml-thin", opacity: 0.5 })),
        shape("path", { d: `M${across - 6} ${down - 6}l12 12m-12 0l12 -12`, class: "maml-line" }),
      );
    });
    put(locus, { d: plane.path(Array.from({ length: 101 }, (_, i) => rest(i / 100)).filter(Boolean)) });
    put(walk, { d: plane.path(path) });
    for (const [name, node] of Object.entries(rests)) {
      node.style.display = places[name] ? "" : "none";
      if (places[name]) put(node, { transform: `translate(${plane.at(...places[name]).map((value) => value.toFixed(2)).join(" ")})` });
    }
    put(zero, { d: factor.path([[0, 0], [2, 0]]) });
    for (const [name, share] of [["first", 0], ["maml", 1], ["here", kept]]) {
      put(bends[name], { d: factor.path(Array.from({ length: 101 }, (_, i) => [i / 50, (1 - i / 50) * (1 - (share * i) / 50)])) });
    }
    spots.replaceChildren(...curvatures.flatMap((A, i) => eigenvalues(A).map((curvature) => {
      const far = innerLr * curvature;
      const [cx, cy] = factor.at(far, (1 - far) * (1 - kept * far));
      return shape("circle", { cx, cy, r: 6, class: "maml-dot maml-outlined", style: colour(`task_${i}`) });
    })));
    grip.show(...start, `start of the descent at ${point(start)}`);

    const [needed, end] = [leastKept(curvatures, innerLr), path.at(-1)];
    aim.reached(needed > 0 && kept >= needed && kept <= needed + 0.02);
    const share = kept === 0 ? "first order (c = 0)" : kept === 1 ? "MAML (c = 1)" : `the share ${kept.toFixed(2)} of the curvature`;
    const others = [["first order", kept !== 0 && places.first], ["MAML", kept !== 1 && places.maml]].filter(([, place]) => place).map(([name, place]) => `${after(place)} for ${name}`);
    said.say(
      places.here
        ? `α = ${innerLr.toFixed(3)}, ${share}: its resting point is ${point(places.here)}, with the loss ${after(places.here)} after a step` + (others.length ? `; it is ${others.join(" and ")}.` : ".") + (places.first ? "" : " First order runs away at this rate.")
        : `α = ${innerLr.toFixed(3)}, ${share}: a direction has the outer curvature ${number(bend(kept))}. The descent runs away and is ${number(Math.hypot(...end))} from the origin after ${metaSteps} meta-steps.` + (kept > 0 ? " This share of the curvature is not yet enough." : ""),
    );
  });
}
