// Where Reptile rests on tasks l² (n·θ − o)², each solved by a whole line, in closed form.

// How much of the way to its line a task goes in K inner steps.
function shareOfWay(loudness, innerLr, innerSteps) {
  return 1 - (1 - 2 * innerLr * loudness ** 2) ** innerSteps;
}

// The point whose squared distances to the lines, each times its weight, have the least sum.
function weighedPoint(weights, normals, offsets) {
  const curvatures = normals.map((n, i) => n.map((a) => n.map((b) => weights[i] * a * b)));
  return commonOptimum(curvatures, normals.map((n, i) => n.map((a) => offsets[i] * a)));
}

function meanSquaredDistance(place, normals, offsets) {
  return normals.reduce((sum, n, i) => sum + (dot(n, place) - offsets[i]) ** 2, 0) / normals.length;
}

function render({ model, el }) {
  const { normals, offsets, quiet, max_steps: maxSteps } = model.get("settings");
  const nearest = weighedPoint(normals.map(() => 1), normals, offsets);
  const plane = new Plane({ label: "The plane of parameters", x: [nearest[0] - 0.8, nearest[0] + 0.8], y: [nearest[1] - 0.6, nearest[1] + 0.75], equal: true, aspect: 0.8, xLabel: "θ₁", yLabel: "θ₂", grid: false });
  const lines = normals.map((_, i) => plane.line(i ? "soft" : "loud"));
  const path = plane.line("reptile", "thin");
  const dots = plane.inside.appendChild(shape("g", { style: colour("reptile") }));
  const [square, target] = [plane.mark("joint", "square", 6), plane.mark("nearest", "star", 10)];
  const take = (steps) => store(model, { inner_steps: clamp(steps, [1, maxSteps]) });
  let rests = [];
  const grip = handle(plane, {
    label: "resting point",
    look: "reptile",
    // by the coordinate in which the path is longer, so that no pull across it is lost
    moved: (place) => {
      const [first, last] = [rests[0], nearest];
      const j = Math.abs(last[1] - first[1]) > Math.abs(last[0] - first[0]) ? 1 : 0;
      take(1 + rests.map((rest) => Math.abs(rest[j] - place[j])).reduce((best, far, i, all) => (far < all[best] ? i : best), 0));
    },
    keyed: (_, [across, up]) => take(model.get("inner_steps") + across + up),
  });
  const said = finding();
  const aim = goal("rest within 0.03 of the nearest point, with no more than 25 inner steps.");
  const shares = table(["task", "loudness", "share of the way", "of the first's"], "How far K inner steps go into each task: these are the weights of the resting point");

  begin(
    model, el, "drag the resting point",
    plane.frame,
    key([["loud", "line", "solutions of the first task"], ["soft", "line", "of the others"], ["joint", "square", "joint optimum"], ["nearest", "star", "nearest point to all lines"], ["reptile", "dot", `Reptile, 1 to ${maxSteps} steps`]]),
    controls(
      slider(model, "inner_steps", { label: "steps K", min: 1, max: maxSteps, step: 1, format: String }),
      slider(model, "inner_lr", { label: "rate α", min: 0.05, max: 0.45, step: 0.01, format: fixed(2) }),
      slider(model, "loudness", { label: "loudness", min: 0.2, max: 1, step: 0.05, format: fixed(2) }),
    ),
    said.node,
    aim.node,
    shares.node,
  );
  keepDrawn(model, el, ["inner_steps", "inner_lr", "loudness"], [plane], ({ inner_steps: steps, inner_lr: innerLr, loudness: first }) => {
    const loudness = [first, ...quiet];
    const weights = (K) => loudness.map((loud) => shareOfWay(loud, innerLr, K));
    rests = range(maxSteps, (i) => weighedPoint(weights(i + 1), normals, offsets));
    const [rest, joint] = [rests[steps - 1], weighedPoint(loudness.map((loud) => loud ** 2), normals, offsets)];

    lines.forEach((node, i) => {
      const [[a, b], o] = [normals[i], offsets[i]];
      put(node, { d: plane.path([[a * o - 9 * b, b * o + 9 * a], [a * o + 9 * b, b * o - 9 * a]]) });
      node.style.strokeWidth = String(1 + 4 * loudness[i]);
    });
    put(path, { d: plane.path(rests) });
    dots.replaceChildren(...plane.dots(rests, 2.5));
    plane.put(square, joint);
    plane.put(target, nearest);
    grip.show(...rest, `resting point at ${point(rest)} with ${counted(steps, "inner step")}`);
    shares.fill(weights(steps).map((share, i) => [i ? "soft" : "loud", i ? `quiet ${i}` : "first", loudness[i].toFixed(2), share.toFixed(3), (share / weights(steps)[0]).toFixed(2)]));
    const off = distance(rest, nearest);
    aim.reached(off <= 0.03 && steps <= 25);
    const fit = (place) => number(meanSquaredDistance(place, normals, offsets));
    said.say(
      `${counted(steps, "inner step")} of ${innerLr.toFixed(2)}: Reptile rests at ${point(rest)}, ${steps === 1 ? "the joint optimum," : `${number(distance(rest, joint))} from the joint optimum and`} ${number(off)} from the nearest point. ` +
        `Mean squared distance to the lines: here ${fit(rest)}, joint ${fit(joint)}, nearest ${fit(nearest)}.`,
    );
  });
}
