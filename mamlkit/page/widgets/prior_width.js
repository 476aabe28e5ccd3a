// K gradient steps on a linear model beside the posterior mean under a normal prior of one width, along the eigenvectors
// of X'X / n. Widths are in units of the noise's standard deviation.

// What is left of the start after K steps of size α on the mean squared error, where X'X / n has the eigenvalue e.
function keptBySteps(e, innerLr, innerSteps) {
  return (1 - 2 * innerLr * e) ** innerSteps;
}

// What is left of the centre in the posterior mean after n examples.
function keptByPrior(e, n, width) {
  return 1 / (1 + n * e * width * width);
}

// The width that leaves as much as the steps do.
function impliedWidth(e, n, innerLr, innerSteps) {
  return Math.sqrt((1 / keptBySteps(e, innerLr, innerSteps) - 1) / (n * e));
}

function eigenvectors(turn) {
  return [[Math.cos(turn), Math.sin(turn)], [-Math.sin(turn), Math.cos(turn)]];
}

// The fit plus the share `kept`, one for each eigenvector, of the way from it to the centre.
function between(fit, centre, turn, kept) {
  const way = plus(centre, -1, fit);
  return eigenvectors(turn).reduce((place, v, j) => plus(place, kept[j] * dot(v, way), v), fit);
}

function render({ model, el }) {
  const { centre, turn, n, x, y, max_inner_lr: maxInnerLr, max_steps: maxSteps, max_width: maxWidth } = model.get("settings");
  const plane = new Plane({ label: "The plane of weights", x, y, equal: true, aspect: 0.8, xLabel: "first weight", yLabel: "second weight", grid: false });
  const [drawnSteps, drawnPrior] = [plane.line("maml", "thin"), plane.line("prior", "thin", "dashed")];
  const [ridge, walk] = [plane.line("prior", "thin", "dotted"), plane.line("maml", "thin")];
  const dots = plane.inside.appendChild(shape("g", { style: colour("maml") }));
  const [start, adapted, posterior] = [plane.mark("centre", "star", 10), plane.mark("maml", "dot", 7), plane.mark("prior", "square", 4)];
  const grip = handle(plane, {
    label: "least squares fit",
    look: "fit",
    kind: "triangle",
    moved: (place) => store(model, { fit: place.map(rounded) }),
  });
  const eigenvalues = () => [1 + model.get("unevenness"), 1 - model.get("unevenness")];
  const implied = () => eigenvalues().map((e) => impliedWidth(e, n, model.get("inner_lr"), model.get("inner_steps")));
  const said = finding();
  const aim = goal("lay the posterior mean on the adapted weights, so that it stays there wherever the fit is.");
  const shares = table(["where inputs vary", "eigenvalue of X′X/n", "kept by K steps", "kept by the prior", "K steps' width"], "Share of the centre that is left in each answer, and the prior width that K steps stand for");

  begin(
    model, el, "drag the fit",
    plane.frame,
    key([
      ["centre", "star", "centre θ, where steps start"],
      ["fit", "triangle", "fit to the task alone, yours to move"],
      ["maml", "dot", "after K steps, and the prior they stand for"],
      ["prior", "square", "posterior mean, and its prior"],
    ]),
    controls(
      slider(model, "inner_steps", { label: "steps K", min: 1, max: maxSteps, step: 1, format: String }),
      slider(model, "inner_lr", { label: "rate α", min: 0.01, max: maxInnerLr, step: 0.01, format: fixed(2) }),
      slider(model, "width", { label: "width τ/σ", min: 0.01, max: maxWidth, step: 0.001, format: fixed(3) }),
      slider(model, "unevenness", { label: "unevenness", min: 0, max: 0.9, step: 0.05, format: fixed(2) }),
      button("Take the steps' wider width", () => store(model, { width: clamp(implied()[0], [0.01, maxWidth]) })),
    ),
    said.node,
    aim.node,
    shares.node,
  );

  keepDrawn(model, el, ["fit", "inner_steps", "inner_lr", "width", "unevenness"], [plane], ({ fit, inner_steps: innerSteps, inner_lr: innerLr, width }) => {
    const [both, widths] = [eigenvalues(), implied()];
    const after = (k) => between(fit, centre, turn, both.map((e) => keptBySteps(e, innerLr, k)));
    const under = (tau) => between(fit, centre, turn, both.map((e) => keptByPrior(e, n, tau)));
    const kept = both.map((e) => [keptBySteps(e, innerLr, innerSteps), keptByPrior(e, n, width)]);
    const apart = Math.max(...kept.map(([a, b]) => Math.abs(a - b)));
    const steps = range(innerSteps + 1, after);

    put(drawnSteps, { d: plane.path(oval(centre, turn, widths)) });
    put(drawnPrior, { d: plane.path(oval(centre, turn, [width, width])) });
    put(ridge, { d: plane.path([centre, ...range(60, (i) => under(0.02 * 1.12 ** i)), fit]) });
    put(walk, { d: plane.path(steps) });
    dots.replaceChildren(...plane.dots(steps.slice(1, -1), 3));
    for (const [node, place] of [[start, centre], [adapted, after(innerSteps)], [posterior, under(width)]]) plane.put(node, place);
    grip.show(...fit, `least squares fit at ${point(fit)}`);
    shares.fill(both.map((e, i) => ["ink", i ? "least" : "most", e.toFixed(2), kept[i][0].toFixed(3), kept[i][1].toFixed(3), number(widths[i])]));
    const even = both[0] === both[1];
    aim.reached(even && apart < 0.005);
    const implies = even ? `one width, ${number(widths[0])}` : `the width ${number(widths[0])} where inputs vary most and ${number(widths[1])} where least`;
    const verdict = !even
      ? "No single width is both, so none makes the answers agree for every fit."
      : apart < 1e-9
        ? "The two priors are one, and so are the answers, wherever the fit is."
        : apart < 0.005
          ? "The two priors are nearly one."
          : `The prior is too ${width > widths[0] ? "wide" : "narrow"}.`;
    said.say(
      `${counted(innerSteps, "step")} of ${innerLr.toFixed(2)} ${innerSteps === 1 ? "stands" : "stand"} for ${implies}; yours is ${width.toFixed(3)}. ` +
        `The adapted weights and the posterior mean lie ${number(distance(after(innerSteps), under(width)))} apart. ${verdict}`,
    );
  });
}
