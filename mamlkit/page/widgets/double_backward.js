// One meta-gradient of a logistic regression with one weight θ: its graph, what cuts it, and what arrives at θ.

function lossOn(examples, offset, weight) {
  return mean(examples.map(([x, y]) => {
    const z = weight * x + offset;
    return Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))) - y * z;
  }));
}

// The first and the second derivative of the mean loss in the weight.
function derivatives(examples, offset, weight) {
  let [slope, curvature] = [0, 0];
  for (const [x, y] of examples) {
    const p = 1 / (1 + Math.exp(-(weight * x + offset)));
    slope += ((p - y) * x) / examples.length;
    curvature += (p * (1 - p) * x * x) / examples.length;
  }
  return { slope, curvature };
}

// Which edges of the graph are missing in a state. Without create_graph the first backward pass frees what it went through.
function cutEdges(now) {
  return {
    forward: now.first_order || (!now.create_graph && now.step > 1),
    bent: now.first_order || !now.create_graph,
    scaled: now.detach_phi || now.detach_gradient,
    straight: now.detach_phi,
  };
}

// Every number of the graph; `received` is what autograd brings to θ, null where no road is left.
function metaGradient({ support, query, offset }, now) {
  const [theta, alpha, cut] = [now.weight, now.inner_lr, cutEdges(now)];
  const { slope: gradient, curvature } = derivatives(support, offset, theta);
  const phi = theta - alpha * gradient;
  const { slope: queryGradient } = derivatives(query, offset, phi);
  const after = (weight) => lossOn(query, offset, weight - alpha * derivatives(support, offset, weight).slope);
  const [straight, bent] = [cut.straight ? null : queryGradient, cut.bent || cut.scaled ? null : -alpha * curvature * queryGradient];
  return {
    cut, gradient, curvature, phi, queryGradient, straight, bent,
    supportLoss: lossOn(support, offset, theta),
    queryLoss: lossOn(query, offset, phi),
    received: straight === null ? null : straight + (bent ?? 0),
    whole: (1 - alpha * curvature) * queryGradient,
    differences: (after(theta + 1e-5) - after(theta - 1e-5)) / 2e-5,
  };
}

// From what arrives at θ: is it the slope that finite differences measure? The straight road brings 1 / (1 − αH) of it, and H is
// not negative: too much, or the wrong sign.
function judgement({ received, straight, bent, differences }) {
  if (received === null) return `Nothing arrives at θ: its grad stays None, and torch.func.grad returns 0. Finite differences say ${number(differences)}.`;
  const said = `finite differences say ${number(differences)}`;
  if (bent !== null) return `Both roads arrive at θ: ${number(straight)} and ${number(bent)}, together ${number(received)}; ${said}.`;
  const times = received / differences;
  const wrong = times < 0 ? "the sign is wrong" : times > 1.005 ? `it is ${number(times)} times too long` : "the two agree, because αH is next to nothing";
  return `Only the straight road arrives at θ, with ${number(received)}; ${said}: ${wrong}.`;
}

function render({ model, el }) {
  const settings = model.get("settings");
  const names = ["start", "support forward", "inner backward", "inner step", "query forward", "outer backward, to φ", "outer backward, to θ"];
  const last = names.length - 1;
  const keys = ["weight", "inner_lr", "step", "create_graph", "detach_gradient", "detach_phi", "first_order"];
  const sheet = new Drawing("The graph of one meta-gradient", "img");
  const said = finding();
  const aim = goal("cut nothing but the bent road, and find a rate α at which the number that arrives has the wrong sign.");
  const sums = table(["what arrives at θ", "exactly", "here"], "The meta-gradient dF/dθ and its two roads");
  const next = button("Next step", () => store(model, { step: (model.get("step") + 1) % names.length }));

  begin(
    model, el, "press Next step",
    sheet.frame,
    key([["straight", "line", "straight road, × 1"], ["bent", "line", "bent road, × (−α) × H"], ["soft", "dotted", "cut: nothing comes back"]]),
    controls(
      slider(model, "step", { label: "step", min: 0, max: last, step: 1, format: (value) => names[value] ?? "" }),
      slider(model, "weight", { label: "θ", min: -3, max: 3, step: 0.05, format: fixed(2) }),
      slider(model, "inner_lr", { label: "rate α", min: 0, max: settings.max_inner_lr, step: settings.max_inner_lr / 80, format: fixed(2) }),
      element(
        "div", { style: "display: flex; flex-wrap: wrap; gap: 0 0.8rem; font-size: 0.93em" },
        tickBox(model, "create_graph", "create_graph=True"),
        tickBox(model, "detach_gradient", "g.detach()"),
        tickBox(model, "first_order", "first_order=True"),
        tickBox(model, "detach_phi", "φ.detach()"),
      ),
      next,
    ),
    said.node,
    aim.node,
    sums.node,
  );

  const [height, half] = [310, 23];
  // Draws the graph for a state and its numbers.
  const drawGraph = (now, found) => {
    const wide = sheet.width > 520;
    const reach = wide ? 60 : 42;
    const place = ([x, y]) => [reach + 2 + x * (sheet.width - 2 * reach - 4), y];
    const nodes = {
      theta: { at: place([0, 72]), from: 0, title: "θ", value: now.weight },
      loss: { at: place([0, height - 30]), from: 1, title: "support loss", value: found.supportLoss },
      gradient: { at: place([0.44, height - 30]), from: 2, title: wide ? "inner gradient g" : "gradient g", value: found.gradient },
      phi: { at: place([0.62, 72]), from: 3, title: "φ = θ − αg", value: found.phi },
      query: { at: place([1, height - 30]), from: 4, title: "query loss", value: found.queryLoss },
    };
    put(sheet.svg, { viewBox: `0 0 ${sheet.width} ${height}`, width: "100%" });
    const [lines, boxes, words] = [shape("g"), shape("g"), shape("g")];
    sheet.svg.replaceChildren(lines, boxes, words);
    const write = (text, [x, y], style = "", anchor = "middle") => words.append(shape("text", { x, y, "text-anchor": anchor, class: "maml-note", style }, text));
    const inked = (look) => `fill: var(--look-${look}); fill: color-mix(in srgb, var(--look-${look}), var(--maml-lift))`;

    for (const { at: [x, y], from, title, value } of Object.values(nodes)) {
      const known = now.step >= from;
      boxes.append(shape("rect", { x: x - reach, y: y - half, width: 2 * reach, height: 2 * half, rx: 8, style: `fill: var(--maml-ground); stroke: var(--maml-${known ? "ink" : "rule"}); stroke-width: ${known ? 1.5 : 1}` }));
      write(title, [x, y - 4], known ? "" : "fill: var(--maml-soft)");
      write(known ? number(value) : "–", [x, y + 14], "font-weight: 600" + (known ? "" : "; fill: var(--maml-soft)"));
    }

    // Where the line from one box to another leaves the first, and `aside` pixels to the left of it.
    const leaves = ([x, y], [toX, toY]) => {
      const [dx, dy] = [toX - x, toY - y];
      const share = Math.min((reach + 4) / Math.abs(dx || 1e-9), (half + 4) / Math.abs(dy || 1e-9));
      return [x + share * dx, y + share * dy];
    };
    const between = (from, to, aside) => {
      const ends = [leaves(from, to), leaves(to, from)];
      const [dx, dy] = plus(ends[1], -1, ends[0]);
      const length = Math.hypot(dx, dy) || 1;
      return ends.map(([x, y]) => [x + (aside * dy) / length, y - (aside * dx) / length]);
    };
    // An edge forwards from its step on, and coloured backwards once the outer backward pass has come through.
    const edge = (from, to, { since, backAt = Infinity, cut = false, look = "soft", label = "", amount = null, share = 0.5, aside = [0, -10], anchor = "middle" }) => {
      const known = now.step >= since;
      const [start, end] = between(nodes[from].at, nodes[to].at, 0);
      const middle = [0, 1].map((i) => start[i] + share * (end[i] - start[i]) + aside[i]);
      if (cut && known) {
        lines.append(shape("path", { d: `M${start}L${end}`, class: "maml-line maml-quiet maml-dotted" }));
        write("✂ cut", middle, "fill: var(--maml-soft)", anchor);
        return;
      }
      arrow(lines, { style: "--c: var(--maml-soft); stroke-width: 1.5" + (known ? "" : "; opacity: 0.3") })(start, end);
      const comes = now.step >= backAt;
      if (comes && amount !== null) arrow(lines, { style: `${colour(look)}; stroke-width: 3.5` })(...between(nodes[to].at, nodes[from].at, 7));
      if (comes && amount === null) write("nothing", middle, "fill: var(--maml-soft)", anchor);
      else if (known && label) write(comes ? (wide ? `${label} = ${number(amount)}` : number(amount)) : label, middle, comes ? inked(look) + "; font-weight: 600" : "", anchor);
    };
    const { cut, queryGradient, straight, bent } = found;
    const back = now.step >= last;
    edge("theta", "loss", { since: 1, cut: cut.forward, aside: [-6, 0], anchor: "end" });
    edge("loss", "gradient", { since: 2 });
    edge("theta", "gradient", { since: 2, backAt: last, cut: cut.bent, look: "bent", label: back ? "−αHg′" : "H", amount: bent, share: 0.3, aside: [14, 0], anchor: "start" });
    edge("theta", "phi", { since: 3, backAt: last, cut: cut.straight, look: "straight", label: back ? "g′" : "1", amount: straight, aside: [0, wide ? -14 : 40] });
    edge("gradient", "phi", { since: 3, backAt: last, cut: cut.scaled, look: "bent", label: back ? "−αg′" : "−α", amount: cut.scaled || cut.bent ? null : -now.inner_lr * queryGradient, share: 0.28, aside: [14, 4], anchor: "start" });
    edge("phi", "query", { since: 4, backAt: last - 1, look: "straight", label: "g′", amount: queryGradient, share: 0.4, aside: [14, 0], anchor: "start" });
    if (back) write(found.received === null ? "nothing arrives" : `arrives: ${number(found.received)}`, [nodes.theta.at[0] - reach, 36], "font-weight: 600", "start");
  };

  keepDrawn(model, el, keys, [sheet], (state) => {
    const now = { ...state, step: clamp(state.step, [0, last]) };
    const found = metaGradient(settings, now);
    const { cut, gradient, phi, queryGradient, straight, bent, received, whole, differences } = found;
    drawGraph(now, found);
    const arrived = now.step === last;
    next.textContent = arrived ? "Start again" : "Next step";
    const shown = (value) => (!arrived ? "not yet" : value === null ? "nothing" : number(value));
    sums.fill([
      ["straight", "straight road, g′", number(queryGradient), shown(straight)],
      ["bent", "bent road, −αHg′", number(whole - queryGradient), shown(bent)],
      ["ink", "together", number(whole), shown(received)],
      ["soft", "finite differences", number(differences), ""],
    ]);
    aim.reached(arrived && straight !== null && bent === null && received * differences < 0);
    const plain = "a plain number that knows nothing of θ";
    said.say(
      [
        `Start: θ = ${number(now.weight)}. Press Next step.`,
        `Support forward: the loss at θ is ${number(found.supportLoss)}.`,
        `Inner backward: the support loss has the slope g = ${number(gradient)}. ` +
          (now.first_order ? `It was taken at a detached copy of θ, so g is ${plain}.` : now.create_graph ? "This pass is recorded too: g stays a function of θ, with the slope H." : `This pass is not recorded, and the graph is freed: g is ${plain}.`),
        `Inner step: φ = θ − αg = ${number(phi)}. ` +
          (now.detach_phi ? `Detached, φ is ${plain}.` : cut.bent || cut.scaled ? "θ stands in it once: g is a constant." : "θ stands in it twice, by itself and inside g."),
        `Query forward: the loss at φ is ${number(found.queryLoss)}; at θ it would be ${number(lossOn(settings.query, settings.offset, now.weight))}.`,
        `Outer backward: at φ the query loss has the slope g′ = ${number(queryGradient)}. What of it belongs to θ?`,
        judgement(found),
      ][now.step],
    );
  });
}
