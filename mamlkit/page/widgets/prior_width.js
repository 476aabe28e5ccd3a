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
  const way = centre.map((value, i) => value - fit[i]);
  return eigenvectors(turn).reduce((place, v, j) => {
    const far = kept[j] * (v[0] * way[0] + v[1] * way[1]);
    return [place[0] + far * v[0], place[1] + far * v[1]];
  }, fit);
}

// The ellipse around `centre` whose half axes lie along the eigenvectors.
function ellipseOf(centre, turn, halves, corners = 96) {
  const [u, v] = eigenvectors(turn);
  return Array.from({ length: corners + 1 }, (_, i) => {
    const [a, b] = [halves[0] * Math.cos((2 * Math.PI * i) / corners), halves[1] * Math.sin((2 * Math.PI * i) / corners)];
    return [centre[0] + a * u[0] + b * v[0], centre[1] + a * u[1] + b * v[1]];
  });
}

function render({ model, el }) {
  const { centre, turn, n, x, y, max_inner_lr: maxInnerLr, max_steps: maxSteps, max_width: maxWidth } = model.get("settings");
  const plane = new Plane({ label: "The plane of weights", x, y, equal: true, aspect: 0.8, xLabel: "first weight", yLabel: "second weight", grid: false });
  const [drawnSteps, drawnPrior] = [
    shape("path", { class: "maml-line maml-thin", style: colour("maml") }),
    shape("path", { class: "maml-line maml-thin maml-dashed", style: colour("prior") }),
  ];
  const ridge = shape("path", { class: "maml-line maml-thin maml-dotted", style: colour("prior") });
  const walk = shape("path", { class: "maml-line maml-thin", style: colour("maml") });
  const dots = shape("g", { style: colour("maml") });
  const start = shape("path", { d: star(10), class: "maml-dot maml-outlined", style: colour("centre") });
  const adapted = shape("circle", { r: 7, class: "maml-dot maml-outlined", style: colour("maml") });
  const mean = shape("rect", { x: -4, y: -4, width: 8, height: 8, class: "maml-dot maml-outlined", style: colour("prior") });
  plane.inside.append(drawnSteps, drawnPrior, ridge, walk, dots, start, adapted, mean);
  const grip = handle(plane, {
    label: "least squares fit",
    look: "fit",
    glyph: "triangle",
    moved: (place) => store(model, { fit: place.map((value) => Math.round(value * 1000) / 1000) }),
  });
  const eigenvalues = () => [1 + model.get("unevenness"), 1 - model.get("unevenness")];
  const implied = () => eigenvalues().map((e) => impliedWidth(e, n, model.get("inner_lr"), model.get("inner_steps")));
  const said = finding();
  const aim = goal("lay the posterior mean on the adapted weights, so that it stays there wherever the fit is.");
  const shares = table(["where inputs vary", "eigenvalue of X′X/n", "kept by K steps", "kept by the prior", "K steps' width"], "Share of the centre that is left in each answer, and the prior width that K steps stand for");

  begin(
    model, el,
    plane.frame,
    key([
      ["centre", "star", "centre θ, where steps start"],
      ["fit", "triangle", "fit to the task alone, yours to move"],
      ["maml", "dot", "after K steps, and the prior they stand for"],
      ["prior", "square", "posterior mean, and its prior"],
    ]),
    element(
      "div", { class: "maml-controls" },
      slider(model, "inner_steps", { label: "steps K", min: 1, max: maxSteps, step: 1, format: String }),
      slider(model, "inner_lr", { label: "rate α", min: 0.01, max: maxInnerLr, step: 0.01, format: (value) => value.toFixed(2) }),
      slider(model, "width", { label: "width τ/σ", min: 0.01, max: maxWidth, step: 0.001, format: (value) => value.toFixed(3) }),
      slider(model, "unevenness", { label: "unevenness", min: 0, max: 0.9, step: 0.05, format: (value) => value.toFixed(2) }),
      button("Take the steps' wider width", () => store(model, { width: clamp(implied()[0], [0.01, maxWidth]) })),
    ),
    said.node,
    aim.node,
    shares.node,
  );

  el.querySelector(".maml-hint").textContent = "drag the fit";

  keepDrawn(model, ["fit", "inner_steps", "inner_lr", "width", "unevenness"], [plane], () => {
    const [fit, innerSteps, innerLr, width] = ["fit", "inner_steps", "inner_lr", "width"].map((name) => model.get(name));
    const [both, widths] = [eigenvalues(), implied()];
    const after = (k) => between(fit, centre, turn, both.map((e) => keptBySteps(e, innerLr, k)));
    const under = (tau) => between(fit, centre, turn, both.map((e) => keptByPrior(e, n, tau)));
    const kept = both.map((e) => [keptBySteps(e, innerLr, innerSteps), keptByPrior(e, n, width)]);
    const apart = Math.max(...kept.map(([a, b]) => Math.abs(a - b)));
    const gap = Math.hypot(...after(innerSteps).map((value, i) => value - under(width)[i]));
    const steps = Array.from({ length: innerSteps + 1 }, (_, k) => after(k));

    put(drawnSteps, { d: plane.path(ellipseOf(centre, turn, widths)) });
    put(drawnPrior, { d: plane.path(ellipseOf(centre, turn, [width, width])) });
    put(ridge, { d: plane.path([centre, ...Array.from({ length: 60 }, (_, i) => under(0.02 * 1.12 ** i)), fit]) });
    put(walk, { d: plane.path(steps) });
    dots.replaceChildren(...steps.slice(1, -1).map((place) => {
      const [cx, cy] = plane.at(...place);
      return shape("circle", { cx, cy, r: 3, class: "maml-dot" });
    }));
    for (const [node, place] of [[start, centre], [adapted, after(innerSteps)], [mean, under(width)]]) {
      put(node, { transform: `translate(${plane.at(...place).map((value) => value.toFixed(2)).join(" ")})` });
    }
    grip.show(...fit, `least squares fit at ${point(fit)}`);
    shares.fill(both.map((e, i) => ["ink", i ? "least" : "most", e.toFixed(2), kept[i][0].toFixed(3), kept[i][1].toFixed(3), number(widths[i])]));
    const even = both[0] === both[1];
    aim.reached(even && apart < 0.005);
    const stand = even
      ? `${innerSteps} step${innerSteps > 1 ? "s" : ""} of ${innerLr.toFixed(2)} stand for one width, ${number(widths[0])}; yours is ${width.toFixed(3)}. `
      : `${innerSteps} step${innerSteps > 1 ? "s" : ""} of ${innerLr.toFixed(2)} stand for the width ${number(widths[0])} where inputs vary most and ${number(widths[1])} where least; yours is ${width.toFixed(3)}. `;
    const verdict = !even
      ? "No single width is both, so none makes the answers agree for every fit."
      : apart < 1e-9
        ? "The two priors are one, and so are the answers, wherever the fit is."
        : apart < 0.005
          ? "The two priors are nearly one."
          : `The prior is too ${width > widths[0] ? "wide" : "narrow"}.`;
    said.say(stand + `The adapted weights and the posterior mean lie ${number(gap)} apart. ` + verdict);
  });
}
