// Federated averaging and SCAFFOLD on quadratic clients ½ (θ − w)ᵀ A (θ − w): a round of each in closed form, and where it rests.

// (I − ηA)^K: what is left of a client's distance to its bottom after K local steps.
function leftOver(A, rate, steps) {
  let [power, base] = [[[1, 0], [0, 1]], lessTimes(A, rate)];
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
  return plus(u, -1, v);
}

// Σ pᵢ vᵢ
function average(shares, places) {
  return places.reduce((sum, v, i) => plus(sum, shares[i], v), [0, 0]);
}

function jointOptimum({ curvatures, bottoms, shares }) {
  return commonOptimum(curvatures.map((A, i) => scaled(A, shares[i])), bottoms);
}

// The mean of the bottoms weighted by pᵢ (I − (I − ηAᵢ)^K).
function fedavgRest({ curvatures, bottoms, shares }, rate, steps) {
  const weights = curvatures.map((A, i) => scaled(lessTimes(leftOver(A, rate, steps), 1), shares[i]));
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
    controls = ends.map((phi, i) => minus(minus(theta, phi).map((value) => value / (steps * rate)), tilts[i]));
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
    const off = distance(theta, target);
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

// The rectangle around all of these places.
function around(places) {
  const [x, y] = [0, 1].map((j) => places.map((place) => place[j])).map((values) => [Math.min(...values), Math.max(...values)]);
  const half = 0.2 + 0.55 * Math.max(y[1] - y[0], (x[1] - x[0]) / 1.15);
  const middle = (y[0] + y[1]) / 2;
  return [x, [middle - half, middle + half]];
}

function render({ model, el }) {
  const { federations, start, max_rate: maxRate, max_steps: maxSteps, near, rounds: shown } = model.get("settings");
  const nearness = powerOfTen(Math.round(Math.log10(near)));
  const plane = new Plane({ label: "The plane of parameters", x: [-1, 1], y: [-1, 1], equal: true, aspect: 0.8, xLabel: "θ₁", yLabel: "θ₂", grid: false });
  const speed = new Plane({
    label: "Distance from the joint optimum after each round, on a logarithmic scale",
    x: [0, shown], y: [-8, 1], aspect: 0.8, xLabel: "round", yLabel: "distance to the joint optimum", yTick: powerOfTen,
  });
  const clients = plane.inside.appendChild(shape("g", { style: colour("client") }));
  const locus = plane.line("soft", "quiet", "dotted");
  const paths = { fedavg: plane.line("fedavg", "thin"), scaffold: plane.line("scaffold", "thin") };
  const [target, resting] = [plane.mark("ink", "star", 10), plane.mark("fedavg", "square", 5)];
  const limit = speed.line("soft", "quiet", "dashed");
  const curves = { fedavg: speed.line("fedavg"), scaffold: speed.line("scaffold") };
  const said = finding();
  const aim = goal(`find a K with which SCAFFOLD needs the fewest rounds to within ${nearness}, at this rate.`);
  const fewest = {};  // by federation and rate; looked for once

  begin(
    model, el, "",
    sideBySide(plane, speed),
    key([["client", "cross", "a client's bottom, large for many examples"], ["ink", "star", "joint optimum"], ["fedavg", "square", "FedAvg, and where it rests"], ["scaffold", "line", "SCAFFOLD"], ["soft", "dotted", "FedAvg's resting points, every K"]]),
    controls(
      slider(model, "local_steps", { label: "local steps K", min: 1, max: maxSteps, step: 1, format: String }),
      slider(model, "rate", { label: "local rate η", min: maxRate / 10, max: maxRate, step: maxRate / 20, format: fixed(2) }),
      button("Next federation", () => store(model, { federation: (model.get("federation") + 1) % federations.length })),
    ),
    said.node,
    aim.node,
  );

  keepDrawn(model, el, ["local_steps", "rate", "federation"], [plane, speed], ({ local_steps: steps, rate, federation: which }) => {
    const here = federations[which];
    const joint = jointOptimum(here);
    const needs = (K) => scaffoldNeeds(here, start, rate, clamp(K, [1, maxSteps]), near);
    const name = `${which} ${rate}`;
    fewest[name] ??= fewestRounds(here, start, rate, maxSteps, near);
    const rest = fedavgRest(here, rate, steps);
    const walks = { fedavg: walkOf(fedavgRound(here, rate, steps), start, shown), scaffold: walkOf(scaffoldRound(here, rate, steps), start, shown) };
    const off = distance(rest, joint);
    const needed = needs(steps);

    plane.show(...around(here.bottoms));
    clients.replaceChildren(
      ...here.bottoms.flatMap((w, i) => [
        shape("path", { d: plane.path(ellipse(here.curvatures[i], w, 0.02)), class: "maml-line maml-thin", opacity: 0.45 }),
        plane.put(glyph("cross", 3 + 12 * here.shares[i], { class: "maml-line" }), w),
      ]),
    );
    put(locus, { d: plane.path([...range(maxSteps, (i) => fedavgRest(here, rate, i + 1)), average(here.shares, here.bottoms)]) });
    for (const [each, path] of Object.entries(walks)) {
      put(paths[each], { d: plane.path(path) });
      put(curves[each], { d: speed.path(path.map((theta, t) => [t, Math.log10(Math.max(distance(theta, joint), 1e-12))])) });
    }
    put(limit, { d: speed.path([[0, Math.log10(near)], [shown, Math.log10(near)]]) });
    plane.put(target, joint);
    plane.put(resting, rest);
    aim.reached(needed === fewest[name] && needed < Infinity);
    const rounds = needed < Infinity ? counted(needed, "round") : "more than 3000 rounds";
    said.say(
      `Federation ${which + 1}, ${counted(steps, "local step")} of ${rate.toFixed(2)}: FedAvg rests ${off < 1e-9 ? "at the joint optimum" : `${number(off)} from the joint optimum`}; ` +
        `SCAFFOLD rests at it and needs ${rounds} to within ${nearness}. ` +
        (needed === fewest[name] ? `No K up to ${maxSteps} needs fewer at this rate.` : needed > needs(steps - 1) ? "A little less local work needs fewer." : needed > needs(steps + 1) ? "A little more local work needs fewer." : "Some other K needs fewer."),
    );
  });
}
