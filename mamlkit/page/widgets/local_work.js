// Federated averaging and SCAFFOLD on quadratic clients ½ (θ − w)ᵀ A (θ − w): a round of each in closed form, and where it rests.

// (I − ηA)^K: what is left of a client's distance to its bottom after K local steps.
function leftOver(A, rate, steps) {
  let [power, base] = [[[1, 0], [0, 1]], A.map((row, i) => row.map((value, j) => (i === j ? 1 : 0) - rate * value))];
  for (let k = steps; k > 0; k = Math.floor(k / 2)) {
    if (k % 2) power = product(power, base);
    base = product(base, base);
  }
  return power;
}

function inverse([[a, b], [c, d]]) {
  const determinant = a * d - b * c;
  return [[d / determinant, -b / determinant], [-c / determinant, a / determinant]];
}

function minus(u, v) {
  return [u[0] - v[0], u[1] - v[1]];
}

// Σ pᵢ vᵢ
function average(shares, places) {
  return places.reduce((sum, v, i) => [sum[0] + shares[i] * v[0], sum[1] + shares[i] * v[1]], [0, 0]);
}

function jointOptimum({ curvatures, bottoms, shares }) {
  return commonOptimum(curvatures.map((A, i) => A.map((row) => row.map((value) => shares[i] * value))), bottoms);
}

// The mean of the bottoms weighted by pᵢ (I − (I − ηAᵢ)^K).
function fedavgRest({ curvatures, bottoms, shares }, rate, steps) {
  const weights = curvatures.map((A, i) => leftOver(A, rate, steps).map((row, r) => row.map((value, c) => shares[i] * ((r === c ? 1 : 0) - value))));
  return commonOptimum(weights, bottoms);
}

// A function from the server's θ to the next.
function fedavgRound({ curvatures, bottoms, shares }, rate, steps) {
  const left = curvatures.map((A) => leftOver(A, rate, steps));
  return (theta) => average(shares, bottoms.map((w, i) => minus(w, times(left[i], minus(w, theta)))));
}

// The same, which keeps the control variates between its calls. A local step goes down Lᵢ(φ) + (c − cᵢ)ᵀφ, a client with its
// bottom at wᵢ − Aᵢ⁻¹ (c − cᵢ).
function scaffoldRound({ curvatures, bottoms, shares }, rate, steps) {
  const [left, back] = [curvatures.map((A) => leftOver(A, rate, steps)), curvatures.map(inverse)];
  let controls = bottoms.map(() => [0, 0]);
  return (theta) => {
    const common = average(shares, controls);
    const tilts = controls.map((c) => minus(common, c));
    const ends = bottoms.map((w, i) => {
      const bottom = minus(w, times(back[i], tilts[i]));
      return minus(bottom, times(left[i], minus(bottom, theta)));
    });
    controls = ends.map((phi, i) => minus([0, 1].map((j) => (theta[j] - phi[j]) / (steps * rate)), tilts[i]));
    return average(shares, ends);
  };
}

function walkOf(round, start, rounds) {
  const path = [start];
  for (let t = 0; t < rounds; t += 1) path.push(round(path[t]));
  return path;
}

// Rounds after which the walk stays within `near` of the target, or Infinity; deep inside it needs no more watching.
function roundsNeeded(round, start, target, near, most) {
  let [theta, needed] = [start, 0];
  for (let t = 1; t <= most; t += 1) {
    theta = round(theta);
    const off = Math.hypot(...minus(theta, target));
    if (!(off < near)) needed = t + 1;
    if (off < near * 1e-3) break;
  }
  return needed > most ? Infinity : Math.max(needed, 1);
}

function scaffoldNeeds(federation, start, rate, steps, near, most = 3000) {
  return roundsNeeded(scaffoldRound(federation, rate, steps), start, jointOptimum(federation), near, most);
}

// The least of them over all K; a walk that is slower than twice the best so far is not watched to its end.
function fewestRounds(federation, start, rate, maxSteps, near) {
  let best = Infinity;
  for (let K = 1; K <= maxSteps; K += 1) best = Math.min(best, scaffoldNeeds(federation, start, rate, K, near, Math.min(3000, 2 * best)));
  return best;
}

// Shows all of these places, with the same unit across and down.
function show(plane, places) {
  const [x, y] = [0, 1].map((j) => places.map((place) => place[j])).map((values) => [Math.min(...values), Math.max(...values)]);
  const half = 0.2 + 0.55 * Math.max(y[1] - y[0], (x[1] - x[0]) / 1.15);
  const middle = (y[0] + y[1]) / 2;
  Object.assign(plane, { x0: x, y: [middle - half, middle + half] });
  plane.size(plane.width);
}

function render({ model, el }) {
  const { federations, start, max_rate: maxRate, max_steps: maxSteps, near, rounds: shown } = model.get("settings");
  const superscript = (value) => String(value).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
  const nearness = `10${superscript(Math.round(Math.log10(near)))}`;
  const plane = new Plane({ label: "The plane of parameters", x: [-1, 1], y: [-1, 1], equal: true, aspect: 0.8, xLabel: "θ₁", yLabel: "θ₂", grid: false });
  const speed = new Plane({
    label: "Distance from the joint optimum after each round, on a logarithmic scale",
    x: [0, shown], y: [-8, 1], aspect: 0.8, xLabel: "round", yLabel: "distance to the joint optimum", yTick: (value) => `10${superscript(value)}`,
  });
  const locus = shape("path", { class: "maml-line maml-quiet maml-dotted" });
  const clients = shape("g", { style: colour("client") });
  const paths = Object.fromEntries(["fedavg", "scaffold"].map((name) => [name, shape("path", { class: "maml-line maml-thin", style: colour(name) })]));
  const target = shape("path", { d: star(10), class: "maml-dot maml-outlined", style: colour("ink") });
  const rests = { fedavg: shape("rect", { x: -5, y: -5, width: 10, height: 10, class: "maml-dot maml-outlined", style: colour("fedavg") }) };
  plane.inside.append(clients, locus, paths.fedavg, paths.scaffold, target, rests.fedavg);
  const limit = shape("path", { class: "maml-line maml-quiet maml-dashed" });
  const curves = Object.fromEntries(["fedavg", "scaffold"].map((name) => [name, shape("path", { class: "maml-line", style: colour(name) })]));
  speed.inside.append(limit, curves.fedavg, curves.scaffold);
  const said = finding();
  const aim = goal(`find a K with which SCAFFOLD needs the fewest rounds to within ${nearness}, at this rate.`);
  const fewest = {};  // by federation and rate; looked for once

  begin(
    model, el,
    element("div", { class: "maml-row" }, plane.frame, speed.frame),
    key([["client", "cross", "a client's bottom, large for many examples"], ["ink", "star", "joint optimum"], ["fedavg", "square", "FedAvg, and where it rests"], ["scaffold", "line", "SCAFFOLD"], ["soft", "dotted", "FedAvg's resting points, every K"]]),
    element(
      "div", { class: "maml-controls" },
      slider(model, "local_steps", { label: "local steps K", min: 1, max: maxSteps, step: 1, format: String }),
      slider(model, "rate", { label: "local rate η", min: maxRate / 10, max: maxRate, step: maxRate / 20, format: (value) => value.toFixed(2) }),
      button("Next federation", () => store(model, { federation: (model.get("federation") + 1) % federations.length })),
    ),
    said.node,
    aim.node,
  );

  keepDrawn(model, ["local_steps", "rate", "federation"], [plane, speed], () => {
    const [steps, rate, which] = ["local_steps", "rate", "federation"].map((name) => model.get(name));
    const clientsHere = federations[which];
    const joint = jointOptimum(clientsHere);
    const needs = (K) => scaffoldNeeds(clientsHere, start, rate, clamp(K, [1, maxSteps]), near);
    const name = `${which} ${rate}`;
    fewest[name] ??= fewestRounds(clientsHere, start, rate, maxSteps, near);
    const rest = fedavgRest(clientsHere, rate, steps);
    const walks = { fedavg: walkOf(fedavgRound(clientsHere, rate, steps), start, shown), scaffold: walkOf(scaffoldRound(clientsHere, rate, steps), start, shown) };
    const off = Math.hypot(...minus(rest, joint));
    const needed = needs(steps);

    show(plane, clientsHere.bottoms);
    clients.replaceChildren(
      ...clientsHere.bottoms.flatMap((w, i) => {
        const [[across, down], size] = [plane.at(...w), 3 + 12 * clientsHere.shares[i]];
        return [
          shape("path", { d: plane.path(ellipse(clientsHere.curvatures[i], w, 0.02)), class: "maml-line maml-thin", opacity: 0.45 }),
          shape("path", { d: `M${across - size} ${down - size}l${2 * size} ${2 * size}m${-2 * size} 0l${2 * size} ${-2 * size}`, class: "maml-line" }),
        ];
      }),
    );
    put(locus, { d: plane.path([...Array.from({ length: maxSteps }, (_, i) => fedavgRest(clientsHere, rate, i + 1)), average(clientsHere.shares, clientsHere.bottoms)]) });
    for (const [each, path] of Object.entries(walks)) {
      put(paths[each], { d: plane.path(path) });
      put(curves[each], { d: speed.path(path.map((theta, t) => [t, Math.log10(Math.max(Math.hypot(...minus(theta, joint)), 1e-12))])) });
    }
    put(limit, { d: speed.path([[0, Math.log10(near)], [shown, Math.log10(near)]]) });
    for (const [node, place] of [[target, joint], [rests.fedavg, rest]]) {
      put(node, { transform: `translate(${plane.at(...place).map((value) => value.toFixed(2)).join(" ")})` });
    }
    aim.reached(needed === fewest[name] && needed < Infinity);
    const count = (rounds) => (rounds < Infinity ? String(rounds) : "more than 3000");
    said.say(
      `Federation ${which + 1}, ${steps} local step${steps > 1 ? "s" : ""} of ${rate.toFixed(2)}: FedAvg rests ${off < 1e-9 ? "at the joint optimum" : `${number(off)} from the joint optimum`}; ` +
        `SCAFFOLD rests at it and needs ${count(needed)} round${needed === 1 ? "" : "s"} to within ${nearness}. ` +
        (needed === fewest[name] ? `No K up to ${maxSteps} needs fewer at this rate.` : needed > needs(steps - 1) ? "A little less local work needs fewer." : needed > needs(steps + 1) ? "A little more local work needs fewer." : "Some other K needs fewer."),
    );
  });
}
