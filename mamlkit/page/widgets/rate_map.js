// Mean losses after adaptation, measured for every rate and number of steps: a map of them, and the path to one cell.

// The mean over seeds of (seeds, rates, steps).
function meanOver(losses) {
  return losses[0].map((row, i) => row.map((_, k) => losses.reduce((sum, seed) => sum + seed[i][k] / losses.length, 0)));
}

// What the figure says of a cell is all in these numbers: the mean, lowest and highest seed, the path, the first step that is
// worse than none.
function cellOf(losses, rate, steps) {
  const mean = meanOver(losses);
  const path = mean[rate].slice(0, steps + 1);
  const seeds = losses.map((seed) => seed[rate][steps]);
  return { mean: mean[rate][steps], low: Math.min(...seeds), high: Math.max(...seeds), path, harmed: path.findIndex((loss) => loss > path[0]) };
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
  });
  map.drawAxes = function drawAxes() {
    const { left, top } = this.margin;
    const every = Math.ceil(rates.length / (this.across / 62));
    this.axes.replaceChildren(
      ...rates.flatMap((rate, i) => (i % every ? [] : [shape("text", { x: left + this.at(i, 0)[0], y: top + this.down + 16, class: "maml-tick", "text-anchor": "middle" }, small(rate))])),
      ...Array.from({ length: steps + 1 }, (_, k) => k).filter((k) => k % Math.ceil(steps / 10) === 0).map((k) => shape("text", { x: left - 6, y: top + this.at(0, k)[1] + 4, class: "maml-tick", "text-anchor": "end" }, k)),
      shape("text", { x: left + this.across / 2, y: top + this.down + 34, class: "maml-axis", "text-anchor": "middle" }, this.xLabel),
      shape("text", { x: 12, y: top + this.down / 2, class: "maml-axis", "text-anchor": "middle", transform: `rotate(-90 12 ${top + this.down / 2})` }, this.yLabel),
    );
  };
  map.drawAxes();
  const path = new Plane({
    label: "The path of mean losses to the cell, on a logarithmic scale",
    x: [-0.3, steps + 0.3], y: [least - 0.1, most + 0.1], aspect: 0.8, xLabel: "after step", yLabel: "mean loss", yTick: (value) => (value === Math.round(value) ? small(10 ** value) : ""),
  });
  const [cells, edge, ghost, here] = [
    shape("g"),
    shape("path", { class: "maml-line" }),
    shape("rect", { style: "fill: none; stroke: var(--maml-ink); stroke-width: 1.5; stroke-dasharray: 3 3" }),
    shape("path", { class: "maml-line maml-quiet maml-dashed" }),
  ];
  map.inside.append(cells, edge, here, ghost);
  const none = shape("path", { class: "maml-line maml-quiet maml-dashed" });
  const others = shape("path", { class: "maml-line maml-thin maml-dotted" });
  const trail = shape("path", { class: "maml-line" });
  const dots = shape("g");
  path.inside.append(none, others, trail, dots);

  const nearest = ([x, y]) => ({ rate: clamp(Math.round(x), [0, rates.length - 1]), inner_steps: clamp(Math.round(y), [0, steps]) });
  const grip = handle(map, { label: "cell of the map", step: 1, moved: (place) => store(model, nearest(place)) });
  let peeked = null;  // the cell under the mouse
  map.svg.style.cursor = "pointer";
  map.svg.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    peeked = nearest(map.under(event));
    draw();
  });
  map.svg.addEventListener("pointerleave", () => {
    peeked = null;
    draw();
  });
  map.svg.addEventListener("click", (event) => store(model, nearest(map.under(event))));
  const said = finding();
  const first = starts[0];
  const aim = goal(`on the map of ${first.label}, choose a rate at which the first step helps and ${steps} steps are worse than none.`);
  const pick = starts.map(({ look, label }) => button(`Start: ${label}`, () => store(model, { start: look })));

  const keys = ["start", "rate", "inner_steps"];
  const draw = () => {
    const shown = starts.find(({ look }) => look === model.get("start")) ?? first;
    const chosen = { rate: clamp(model.get("rate"), [0, rates.length - 1]), inner_steps: clamp(model.get("inner_steps"), [0, steps]) };
    const { rate, inner_steps: count } = peeked ?? chosen;
    const mean = meanOver(shown.losses);
    const cell = cellOf(shown.losses, rate, count);
    const corner = (i, k) => [map.at(i - 0.5, k + 0.5), map.at(i + 0.5, k - 0.5)];
    const box = (i, k) => {
      const [[x, y], [right, bottom]] = corner(i, k);
      return { x: x.toFixed(1), y: y.toFixed(1), width: (right - x).toFixed(1), height: (bottom - y).toFixed(1) };
    };
    // as far from paper as the loss is from that of no step, on the scale of its logarithm
    cells.replaceChildren(
      ...mean.flatMap((row, i) =>
        row.map((loss, k) => {
          const off = Math.log10(loss / row[0]);
          const share = Math.round(90 * Math.min(1, Math.abs(off) / (off > 0 ? most - Math.log10(row[0]) : Math.log10(row[0]) - least)));
          return shape("rect", { ...box(i, k), style: `fill: color-mix(in srgb, color-mix(in srgb, var(--look-${off > 0 ? "worse" : "better"}), var(--maml-lift)) ${share}%, var(--maml-ground)); stroke: var(--maml-rule); stroke-width: 0.5` });
        }),
      ),
    );
    put(edge, { d: shore(mean, rates.length, steps).map((line) => map.path(line)).join(""), style: "--c: var(--maml-ink)" });
    const at = rates.findIndex((each, i) => i + 1 === rates.length || trainedAt < rates[i + 1]);
    const trained = at + (at + 1 < rates.length ? Math.log(trainedAt / rates[at]) / Math.log(rates[at + 1] / rates[at]) : 0);
    put(here, { d: map.path([[trained, -0.5], [trained, steps + 0.5]]) });
    put(ghost, box(rate, count));
    ghost.style.display = peeked ? "" : "none";
    put(none, { d: path.path([[-0.3, Math.log10(mean[rate][0])], [steps + 0.3, Math.log10(mean[rate][0])]]) });
    put(others, { d: path.path(mean[rate].map((loss, k) => [k, Math.log10(loss)])), style: colour(shown.look) });
    put(trail, { d: path.path(cell.path.map((loss, k) => [k, Math.log10(loss)])), style: colour(shown.look) });
    dots.replaceChildren(...cell.path.map((loss, k) => {
      const [cx, cy] = path.at(k, Math.log10(loss));
      return shape("circle", { cx, cy, r: k === count ? 6 : 3, class: "maml-dot", style: colour(shown.look) });
    }));
    const stepText = (k) => `${k} step${k === 1 ? "" : "s"}`;
    grip.show(chosen.rate, chosen.inner_steps, `${stepText(chosen.inner_steps)} of ${small(rates[chosen.rate])}: mean loss ${number(mean[chosen.rate][chosen.inner_steps])}`);
    pick.forEach((node, i) => {
      const pressed = starts[i] === shown;
      put(node, { "aria-pressed": String(pressed), style: pressed ? "border-color: var(--maml-focus); font-weight: 600" : "" });
    });
    aim.reached(shown === first && turns(first.losses, chosen.rate));
    const seeds = shown.losses.length;
    const range = seeds > 1 ? ` (${number(cell.low)} to ${number(cell.high)} over ${seeds} seeds)` : "";
    const best = Math.min(...mean.flat());
    const lot = !count
      ? "No step is taken."
      : cell.harmed > 0 && cell.mean > cell.path[0]
        ? `That is worse than no step (${number(cell.path[0])})${cell.harmed > 1 ? `: the first step helps, to ${number(cell.path[1])}, and step ${cell.harmed} is the first that harms` : ""}.`
        : cell.mean === best
          ? `No cell of this map is lower; without a step it is ${number(cell.path[0])}.`
          : `Without a step it is ${number(cell.path[0])}.`;
    said.say(`From the start of ${shown.label}, ${stepText(count)} of ${small(rates[rate])}: mean loss ${number(cell.mean)}${range}, ${nTasks} tasks. ${lot}`);
  };

  // what the reader chooses is shown, even while the mouse rests on the map
  for (const name of keys) model.on("change:" + name, () => (peeked = null));

  begin(
    model, el,
    element("div", { class: "maml-row" }, map.frame, path.frame),
    key([["better", "square", "less loss than without a step"], ["worse", "square", "more: adapting does harm"], ["soft", "dashed", `trained with α = ${small(trainedAt)}; right: without a step`], ["ink", "dotted", "further steps at this rate"]]),
    element(
      "div", { class: "maml-controls" },
      slider(model, "inner_steps", { label: "steps K", min: 0, max: steps, step: 1, format: String }),
      slider(model, "rate", { label: "rate α", min: 0, max: rates.length - 1, step: 1, format: (i) => small(rates[clamp(i, [0, rates.length - 1])]) }),
      ...pick,
    ),
    said.node,
    aim.node,
  );
  el.querySelector(".maml-hint").textContent = "point at a cell, click to choose it";

  keepDrawn(model, keys, [map, path], draw);
}
