// Quadratic tasks on a plane: where joint training ends, and where MAML does.

function render({ model, el }) {
  const { curvatures, x, y, names, max_inner_lr: maxInnerLr } = model.get("settings");
  const tasks = curvatures.map((_, i) => i);
  const plane = new Plane({ label: "The plane of parameters", x, y, equal: true, aspect: 0.62, xLabel: "θ₁", yLabel: "θ₂", grid: false });
  const looks = tasks.map((i) => `task_${i}`);
  const rings = [[0.03, 0.9], [0.125, 0.6], [0.275, 0.35]];  // how high, how plain
  const contours = looks.map((look) => rings.map(([, opacity]) => put(plane.line(look, "thin"), { opacity })));
  const equallyGood = plane.line("maml", "thin", "dashed");
  const arrows = looks.map((look) => arrow(plane.inside, { style: colour(look) }));
  const [joint, maml] = [plane.mark("joint", "square", 6), plane.mark("maml", "star", 11)];
  const labels = [...names, "θ"].map((text) => plane.inside.appendChild(shape("text", { class: "maml-note" }, text)));

  const optimumGrips = tasks.map((i) =>
    handle(plane, {
      label: `optimum of ${names[i]}`,
      look: looks[i],
      kind: "cross",
      moved: (place) => store(model, { optima: model.get("optima").map((w, j) => (i === j ? place.map(rounded) : w)) }),
    }),
  );
  const thetaGrip = handle(plane, { label: "initialisation θ", moved: (place) => store(model, { theta: place.map(rounded) }) });
  const said = finding();
  const aim = goal("bring the mean loss of θ after the step to within 5 % of the least that there is.");
  const losses = table(["start", "at", ...names.map((name) => `${name}, after`), "mean before", "mean after"], "Loss of each task after its own inner step");
  losses.node.classList.add("maml-places");
  const jump = (label, optimum) =>
    button(label, () => {
      const best = optimum();
      if (best) store(model, { theta: best.map(rounded) });
    });
  const optima = () => model.get("optima");
  const jointOptimum = () => commonOptimum(curvatures, optima());
  const after = () => curvatures.map((A) => curvatureAfter(A, model.get("inner_lr")));
  const mamlOptimum = () => commonOptimum(after(), optima());

  begin(
    model, el, "drag the points",
    plane.frame,
    key([["ink", "dot", "θ, yours to move"], ["joint", "square", "best before a step (joint training)"], ["maml", "star", "best after a step (MAML)"], ["maml", "dashed", "as good as θ after a step"]]),
    controls(
      slider(model, "inner_lr", { label: "inner step α", min: 0, max: maxInnerLr, step: maxInnerLr / 100, format: fixed(3) }),
      element("p", { class: "maml-small" }, "α ends just short of solving the steepest direction in one step."),
      jump("θ to the joint optimum", jointOptimum),
      jump("θ to the MAML optimum", mamlOptimum),
    ),
    aim.node,
    said.node,
    losses.node,
  );

  keepDrawn(model, el, ["theta", "optima", "inner_lr"], [plane], ({ theta, optima: w, inner_lr: innerLr }) => {
    const before = (place) => mean(tasks.map((i) => lossAt(curvatures[i], w[i], place)));
    const afterEach = (place) => tasks.map((i) => lossAt(curvatures[i], w[i], innerStep(curvatures[i], w[i], place, innerLr)));
    const meanAfter = (place) => mean(afterEach(place));
    const [jointBest, mamlBest] = [jointOptimum(), mamlOptimum()];

    const unit = ((y[1] - y[0]) / 7) ** 2 * Math.max(...curvatures.map((A) => A[0][0] + A[1][1]));
    tasks.forEach((i) => {
      contours[i].forEach((path, ring) => put(path, { d: plane.path(ellipse(curvatures[i], w[i], rings[ring][0] * unit)) }));
      arrows[i](plane.at(...theta), plane.at(...innerStep(curvatures[i], w[i], theta, innerLr)));
      optimumGrips[i].show(...w[i], `optimum of ${names[i]} at ${point(w[i])}`);
    });
    const level = mamlBest && meanAfter(theta) - meanAfter(mamlBest);
    put(equallyGood, { d: mamlBest && level > 1e-9 ? plane.path(ellipse(sumOf(after()), mamlBest, level * tasks.length)) : "" });
    plane.put(joint, jointBest);
    plane.put(maml, mamlBest);
    thetaGrip.show(...theta, `θ at ${point(theta)}, mean loss after a step ${number(meanAfter(theta))}`);
    [...w, theta].forEach((where, i) => {
      const [across, down] = plane.at(...where);
      const left = across > plane.across - 70;
      const below = down < 24 || (i === w.length && w.some((other) => distance(plane.at(...other), [across, down]) < 60));
      put(labels[i], { x: across + (left ? -14 : 14), y: below ? down + 22 : down - 12, "text-anchor": left ? "end" : "start" });
    });

    const row = (look, name, where) => [look, name, point(where), ...[...afterEach(where), before(where), meanAfter(where)].map((value) => number(value))];
    losses.fill([
      row("ink", "θ", theta),
      ...(jointBest ? [row("joint", "joint", jointBest)] : []),
      ...(mamlBest ? [row("maml", "MAML", mamlBest)] : []),
    ]);
    aim.reached(mamlBest && meanAfter(theta) <= 1.05 * meanAfter(mamlBest));
    const yours = `With α = ${number(innerLr)}, θ = ${point(theta)} has mean loss ${number(before(theta))} before and ${number(meanAfter(theta))} after one step. `;
    if (!mamlBest || !jointBest) said.say(yours + "Many initialisations are equally good here: after the step nothing in at least one direction depends on θ.");
    else {
      const gap = distance(jointBest, mamlBest);
      said.say(
        yours +
          (gap < 5e-4
            ? "The joint and the MAML optimum coincide."
            : `After a step the joint optimum reaches ${number(meanAfter(jointBest))} and the MAML optimum ${number(meanAfter(mamlBest))}; they lie ${number(gap)} apart.`),
      );
    }
  });
}
