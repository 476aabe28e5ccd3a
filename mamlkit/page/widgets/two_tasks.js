// Quadratic tasks on a plane: where joint training ends, and where MAML does.

function render({ model, el }) {
  const { curvatures, x, y, names, max_inner_lr: maxInnerLr } = model.get("settings");
  const tasks = curvatures.map((_, i) => i);
  const plane = new Plane({ label: "The plane of parameters", x, y, equal: true, aspect: 0.62, xLabel: "θ₁", yLabel: "θ₂", grid: false });
  const looks = tasks.map((i) => `task_${i}`);
  const contours = tasks.map((i) => [0.25, 1, 2.25].map(() => shape("path", { class: "maml-line maml-thin", style: colour(looks[i]) })));
  const equallyGood = shape("path", { class: "maml-line maml-thin maml-dashed", style: colour("maml") });
  plane.inside.append(...contours.flat(), equallyGood);
  const arrows = tasks.map((i) => arrow(plane.inside, { style: colour(looks[i]) }));
  const joint = shape("rect", { x: -6, y: -6, width: 12, height: 12, class: "maml-dot maml-outlined", style: colour("joint") });
  const maml = shape("path", { d: star(11), class: "maml-dot maml-outlined", style: colour("maml") });
  const labels = [...tasks.map((i) => names[i]), "θ"].map((text) => shape("text", { class: "maml-note" }, text));
  plane.inside.append(joint, maml, ...labels);

  const rounded = (place) => place.map((value) => Math.round(value * 1000) / 1000);
  const optimumGrips = tasks.map((i) =>
    handle(plane, {
      label: `optimum of ${names[i]}`,
      look: looks[i],
      glyph: "cross",
      moved: (place) => store(model, { optima: model.get("optima").map((w, j) => (i === j ? rounded(place) : w)) }),
    }),
  );
  const thetaGrip = handle(plane, { label: "initialisation θ", look: "ink", moved: (place) => store(model, { theta: rounded(place) }) });
  const said = finding();
  const losses = table(["start", "at", ...names.map((name) => `${name}, after`), "mean before", "mean after"], "Loss of each task after its own inner step");
  losses.node.classList.add("maml-places");
  const jump = (label, optimum) =>
    button(label, () => {
      const goal = optimum();
      if (goal) store(model, { theta: rounded(goal) });
    });
  const optima = () => model.get("optima");
  const jointOptimum = () => commonOptimum(curvatures, optima());
  const after = () => curvatures.map((A) => curvatureAfter(A, model.get("inner_lr")));
  const mamlOptimum = () => commonOptimum(after(), optima());

  begin(
    model, el,
    plane.frame,
    key([["ink", "dot", "θ, yours to move"], ["joint", "square", "best before a step (joint training)"], ["maml", "star", "best after a step (MAML)"], ["maml", "dashed", "as good as θ after a step"]]),
    element(
      "div", { class: "maml-controls" },
      slider(model, "inner_lr", { label: "inner step α", min: 0, max: maxInnerLr, step: maxInnerLr / 100, format: (value) => value.toFixed(3) }),
      element("p", { class: "maml-small" }, "α ends just short of solving the steepest direction in one step."),
      jump("θ to the joint optimum", jointOptimum),
      jump("θ to the MAML optimum", mamlOptimum),
    ),
    said.node,
    losses.node,
  );

  keepDrawn(model, ["theta", "optima", "inner_lr"], [plane], () => {
    const [theta, w, innerLr] = [model.get("theta"), optima(), model.get("inner_lr")];
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const before = (place) => mean(tasks.map((i) => lossAt(curvatures[i], w[i], place)));
    const afterEach = (place) => tasks.map((i) => lossAt(curvatures[i], w[i], innerStep(curvatures[i], w[i], place, innerLr)));
    const [jointBest, mamlBest] = [jointOptimum(), mamlOptimum()];
    const place = (node, where) => {
      node.style.display = where ? "" : "none";
      if (where) put(node, { transform: `translate(${plane.at(...where).map((v) => v.toFixed(2)).join(" ")})` });
    };

    const unit = ((y[1] - y[0]) / 7) ** 2;
    tasks.forEach((i) => {
      const steepest = Math.max(...curvatures.map((A) => A[0][0] + A[1][1]));
      contours[i].forEach((path, ring) => put(path, { d: plane.path(ellipse(curvatures[i], w[i], [0.12, 0.5, 1.1][ring] * unit * steepest * 0.25)) }));
      contours[i].forEach((path, ring) => put(path, { opacity: [0.9, 0.6, 0.35][ring] }));
      arrows[i](plane.at(...theta), plane.at(...innerStep(curvatures[i], w[i], theta, innerLr)));
      optimumGrips[i].show(...w[i], `optimum of ${names[i]} at ${point(w[i])}`);
    });
    const level = mamlBest && mean(afterEach(theta)) - mean(afterEach(mamlBest));
    const rounder = after().reduce((sum, B) => sum.map((row, i) => row.map((value, j) => value + B[i][j] / tasks.length)), [[0, 0], [0, 0]]);
    put(equallyGood, { d: mamlBest && level > 1e-9 ? plane.path(ellipse(rounder, mamlBest, level, 180)) : "" });
    place(joint, jointBest);
    place(maml, mamlBest);
    thetaGrip.show(...theta, `θ at ${point(theta)}, mean loss after a step ${number(mean(afterEach(theta)))}`);
    [...w, theta].forEach((where, i) => {
      const [across, down] = plane.at(...where);
      const left = across > plane.across - 70;
      const below = down < 24 || (i === w.length && w.some((other) => Math.hypot(...plane.at(...other).map((v, j) => v - [across, down][j])) < 60));
      put(labels[i], { x: across + (left ? -14 : 14), y: below ? down + 22 : down - 12, "text-anchor": left ? "end" : "start" });
    });

    const row = (look, name, where) => [look, name, point(where), ...afterEach(where).map((value) => number(value)), number(before(where)), number(mean(afterEach(where)))];
    losses.fill([
      row("ink", "θ", theta),
      ...(jointBest ? [row("joint", "joint", jointBest)] : []),
      ...(mamlBest ? [row("maml", "MAML", mamlBest)] : []),
    ]);
    const yours = `With α = ${number(innerLr)}, θ = ${point(theta)} has mean loss ${number(before(theta))} before and ${number(mean(afterEach(theta)))} after one step. `;
    if (!mamlBest || !jointBest) said.say(yours + "Many initialisations are equally good here: after the step nothing in at least one direction depends on θ.");
    else {
      const gap = Math.hypot(jointBest[0] - mamlBest[0], jointBest[1] - mamlBest[1]);
      said.say(
        yours +
          (gap < 5e-4
            ? "The joint and the MAML optimum coincide."
            : `After a step the joint optimum reaches ${number(mean(afterEach(jointBest)))} and the MAML optimum ${number(mean(afterEach(mamlBest)))}; they lie ${number(gap)} apart.`),
      );
    }
  });
}
