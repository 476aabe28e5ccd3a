// Mean losses after adaptation, measured for every rate and number of steps: a map of them, and the path to one cell.

// The mean over seeds of (seeds, rates, steps).
function meanOver(losses) {
  return losses[0].map((row, i) => row.map((_, k) => mean(losses.map((seed) => seed[i][k]))));
}

// What the figure says of a cell is all in these numbers: the mean, lowest and highest seed, the path, the first step that is
// worse than none.
function cellOf(losses, rate, steps) {
  const means = meanOver(losses)[rate];
  const path = means.slice(0, steps + 1);
  const seeds = losses.map((seed) => seed[rate][steps]);
  return { mean: means[steps], low: Math.min(...seeds), high: Math.max(...seeds), path, harmed: path.findIndex((loss) => loss > path[0]) };
}

// Whether at this rate the first step helps and the last one shown is worse than none.
function turns(losses, rate) {
  const path = meanOver(losses)[rate];
  return path[1] < path[0] && path.at(-1) > path[0];
}

// Where the cells that are worse than no step end, as lines between corners of cells.
function shore(mean, rates, steps) {
  const bad = (i, k) => i >= 0 && i < rates && k >= 0 && k <= steps && mean[i][k] > mean[i][0];
  const lines = [];
  for (let i = 0; i <= rates; i += 1) {
    for (let k = 0; k <= steps + 1; k += 1) {
      if (i > 0 && i < rates && k <= steps && bad(i - 1, k) !== bad(i, k)) lines.push([[i - 0.5, k - 0.5], [i - 0.5, k + 0.5]]);
      if (k > 0 && k <= steps && i < rates && bad(i, k - 1) !== bad(i, k)) lines.push([[i - 0.5, k - 0.5], [i + 0.5, k - 0.5]]);
    }
  }
  return lines;
}

function render({ model, el }) {
  const { starts, rates, trained_at: trainedAt, n_tasks: nTasks } = model.get("settings");
  const steps = starts[0].losses[0][0].length - 1;
  const all = starts.flatMap(({ losses }) => losses.flat(2));
  const [least, most] = [Math.min(...all), Math.max(...all)].map(Math.log10);
  const small = (rate) => String(Number(rate.toPrecision(3)));
  const map = new Plane({
    label: "Map of the mean loss, over inner rate and number of steps",
    x: [-0.5, rates.length - 0.5], y: [-0.5, steps + 0.5], aspect: 0.8, xLabel: "inner rate α", yLabel: "steps K", grid: false,
    xTick: (i) => (i in rates ? small(rates[i]) : ""), yTick: (k) => (Number.isInteger(k) ? k : ""),
  });
  const path = new Plane({
    label: "The path of mean losses to the cell, on a logarithmic scale",
    x: [-0.3, steps + 0.3], y: [least - 0.1, most + 0.1], aspect: 0.8, xLabel: "after step", yLabel: "mean loss", yTick: (value) => (value === Math.round(value) ? small(10 ** value) : ""),
  });
  const cells = map.inside.appendChild(shape("g"));
  const [edge, trainedHere] = [map.line("ink"), map.line("soft", "quiet", "dashed")];
  const ghost = map.inside.appendChild(shape("rect", { style: "fill: none; stroke: var(--maml-ink); stroke-width: 1.5; stroke-dasharray: 3 3" }));
  const [before, others, trail] = [path.line("soft", "quiet", "dashed"), path.line("ink", "thin", "dotted"), path.line("ink")];
  const dots = path.inside.appendChild(shape("g"));

  const nearest = ([x, y]) => ({ rate: clamp(Math.round(x), [0, rates.length - 1]), inner_steps: clamp(Math.round(y), [0, steps]) });
  const grip = handle(map, { label: "cell of the map", step: 1, moved: (place) => store(model, nearest(place)) });
  let peeked = null;  // the cell under the mouse
  const peek = (cell) => {
    peeked = cell;
    draw();
  };
  map.svg.style.cursor = "pointer";
  map.svg.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") peek(nearest(map.under(event)));
  });
  map.svg.addEventListener("pointerleave", () => peek(null));
  map.svg.addEventListener("click", (event) => store(model, nearest(map.under(event))));
  const said = finding();
  const first = starts[0];
  const aim = goal(`on the map of ${first.label}, choose a rate at which the first step helps and ${counted(steps, "step")} are worse than none.`);

  begin(
    model, el, "point at a cell, click to choose it",
    sideBySide(map, path),
    key([["better", "square", "less loss than without a step"], ["worse", "square", "more: adapting does harm"], ["soft", "dashed", `trained with α = ${small(trainedAt)}; right: without a step`], ["ink", "dotted", "further steps at this rate"]]),
    controls(
      slider(model, "inner_steps", { label: "steps K", min: 0, max: steps, step: 1, format: String }),
      slider(model, "rate", { label: "rate α", min: 0, max: rates.length - 1, step: 1, format: (i) => small(rates[clamp(i, [0, rates.length - 1])]) }),
      choice(model, "start", "The start", starts.map(({ look, label }) => [look, `Start: ${label}`])),
    ),
    said.node,
    aim.node,
  );

  // what the reader chooses is shown, even while the mouse rests on the map
  const keys = ["start", "rate", "inner_steps"];
  for (const name of keys) model.on("change:" + name, () => (peeked = null));

  const draw = keepDrawn(model, el, keys, [map, path], (now) => {
    const shown = starts.find(({ look }) => look === now.start) ?? first;
    const chosen = { rate: clamp(now.rate, [0, rates.length - 1]), inner_steps: clamp(now.inner_steps, [0, steps]) };
    const { rate, inner_steps: count } = peeked ?? chosen;
    const means = meanOver(shown.losses);
    const cell = cellOf(shown.losses, rate, count);
    const none = cell.path[0];
    const box = (i, k) => {
      const [[x, y], [right, bottom]] = [map.at(i - 0.5, k + 0.5), map.at(i + 0.5, k - 0.5)];
      return { x: x.toFixed(1), y: y.toFixed(1), width: (right - x).toFixed(1), height: (bottom - y).toFixed(1) };
    };
    const logs = (losses) => losses.map((loss, k) => [k, Math.log10(loss)]);

    // as far from paper as the loss is from that of no step, on the scale of its logarithm
    const fill = (loss, before) => {
      const [off, room] = [Math.log10(loss / before), loss > before ? most - Math.log10(before) : Math.log10(before) - least];
      const look = `color-mix(in srgb, var(--look-${off > 0 ? "worse" : "better"}), var(--maml-lift))`;
      return `fill: color-mix(in srgb, ${look} ${Math.round(90 * Math.min(1, Math.abs(off) / room))}%, var(--maml-ground)); stroke: var(--maml-rule); stroke-width: 0.5`;
    };
    cells.replaceChildren(...means.flatMap((row, i) => row.map((loss, k) => shape("rect", { ...box(i, k), style: fill(loss, row[0]) }))));
    put(edge, { d: shore(means, rates.length, steps).map((line) => map.path(line)).join("") });
    const at = rates.findIndex((each, i) => i + 1 === rates.length || trainedAt < rates[i + 1]);
    const trained = at + (at + 1 < rates.length ? Math.log(trainedAt / rates[at]) / Math.log(rates[at + 1] / rates[at]) : 0);
    put(trainedHere, { d: map.path([[trained, -0.5], [trained, steps + 0.5]]) });
    put(ghost, box(rate, count));
    ghost.style.display = peeked ? "" : "none";
    put(before, { d: path.path([[-0.3, Math.log10(none)], [steps + 0.3, Math.log10(none)]]) });
    put(others, { d: path.path(logs(means[rate])) });
    put(trail, { d: path.path(logs(cell.path)) });
    dots.replaceChildren(...logs(cell.path).flatMap((place, k) => path.dots([place], k === count ? 6 : 3)));
    for (const node of [others, trail, dots]) put(node, { style: colour(shown.look) });
    const stepsAt = (count, rate) => `${counted(count, "step")} of ${small(rates[rate])}`;
    grip.show(chosen.rate, chosen.inner_steps, `${stepsAt(chosen.inner_steps, chosen.rate)}: mean loss ${number(means[chosen.rate][chosen.inner_steps])}`);
    aim.reached(shown === first && turns(first.losses, chosen.rate));
    const seeds = shown.losses.length;
    const spread = seeds > 1 ? ` (${number(cell.low)} to ${number(cell.high)} over ${seeds} seeds)` : "";
    const lot = !count
      ? "No step is taken."
      : cell.harmed > 0 && cell.mean > none
        ? `That is worse than no step (${number(none)})${cell.harmed > 1 ? `: the first step helps, to ${number(cell.path[1])}, and step ${cell.harmed} is the first that harms` : ""}.`
        : cell.mean === Math.min(...means.flat())
          ? `No cell of this map is lower; without a step it is ${number(none)}.`
          : `Without a step it is ${number(none)}.`;
    said.say(`From the start of ${shown.label}, ${stepsAt(count, rate)}: mean loss ${number(cell.mean)}${spread}, ${counted(nTasks, "task")}. ${lot}`);
  });
}
