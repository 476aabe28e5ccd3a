// Draw one example of each symbol, then a query: what a meta-trained network takes it for before and after one step on
// the examples, and what the nearest neighbour in pixels does. A drawing is a list of strokes, each x, y, x, y, ...

// A drawing as the network sees it: centred, scaled, and inked with a round pen. As `pixels` in Python.
function pixels(drawing, { side, filled, largest, radius, parts }) {
  const image = new Float64Array(side * side);
  const [xs, ys] = [0, 1].map((axis) => drawing.flatMap((stroke) => stroke.filter((_, i) => i % 2 === axis)));
  if (!xs.length) return image;
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min(filled / Math.max(right - left, bottom - top, 1e-9), largest);
  const fine = side * parts;
  const nearest = new Float64Array(fine * fine).fill(Infinity);
  const place = (value, low, high) => ((value - (low + high) / 2) * scale + 0.5) * side;
  for (const stroke of drawing) {
    for (let i = 0; i + 1 < Math.max(stroke.length - 2, 2); i += 2) {
      const j = Math.min(i + 2, stroke.length - 2);
      const [x0, y0] = [place(stroke[i], left, right), place(stroke[i + 1], top, bottom)];
      const [dx, dy] = [place(stroke[j], left, right) - x0, place(stroke[j + 1], top, bottom) - y0];
      const long = Math.max(dx * dx + dy * dy, 1e-12);
      for (let row = 0; row < fine; row += 1) {
        const y = (row + 0.5) / parts - y0;
        for (let column = 0; column < fine; column += 1) {
          const x = (column + 0.5) / parts - x0;
          const share = clamp((x * dx + y * dy) / long, [0, 1]);
          const off = (x - share * dx) ** 2 + (y - share * dy) ** 2;
          if (off < nearest[row * fine + column]) nearest[row * fine + column] = off;
        }
      }
    }
  }
  nearest.forEach((off, i) => {
    if (off <= radius * radius) image[Math.floor(i / fine / parts) * side + Math.floor((i % fine) / parts)] += 1 / parts ** 2;
  });
  return image;
}

function cosine(a, b) {
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function joined(images) {
  const all = new Float64Array(images.length * images[0].length);
  images.forEach((image, i) => all.set(image, i * image.length));
  return all;
}

// The confidence in every label when the query is normalised with the examples.
function confidences(net, examples, query) {
  const n = examples.length + 1;
  return softmax(forwardConv4(net, joined([...examples, query]), n).logits.slice(-net.bias.length));
}

// Strokes as lines in a square of a hundred.
function lineOf(drawing) {
  return drawing.map((stroke) => {
    const places = range(stroke.length / 2, (i) => stroke.slice(2 * i, 2 * i + 2).map((value) => (100 * value).toFixed(1)).join(" "));
    return `M${places.length > 1 ? places.join("L") : `${places[0]}h0`}`;
  }).join("");
}

function render({ model, el }) {
  const { n_way: nWay, channels, weights, inner_lr: innerLr, sets, pen } = model.get("settings");
  const net = unpackConv4(weights, channels, nWay);
  const letters = "ABCDEFGHI".slice(0, nWay).split("");
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const at = (box) => (box < nWay ? model.get("alphabet")[box] : model.get("query"));
  const fill = (box, drawing) => store(model, box < nWay ? { alphabet: model.get("alphabet").map((old, i) => (i === box ? drawing : old)) } : { query: drawing });
  let [box, own, asked] = [nWay, null, 0];  // the open box, what the reader drew in it, the ready-made query

  const boxes = [...letters, "?"].map((letter, i) => {
    const node = button("", () => open(i));
    node.classList.add("maml-choice");
    return put(node, { style: "flex: 1 1 0; min-width: 0; max-width: 5.5rem", "aria-label": i < nWay ? `example of ${letter}` : "query" });
  });
  const choices = group("which box the pen draws in", ...boxes);
  choices.style.flexWrap = "nowrap";

  const strokes = (width) => shape("path", { "stroke-width": width, style: "fill: none; stroke: currentColor; stroke-linecap: round; stroke-linejoin: round" });
  const ink = strokes(4);
  const pad = shape("svg", { viewBox: "0 0 100 100", role: "img", style: "display: block; width: 100%; aspect-ratio: 1; border: 2px solid var(--maml-focus); border-radius: 0.4rem; background: var(--maml-ground); cursor: crosshair; touch-action: none" }, ink);
  const frame = element("div", { class: "maml-frame", style: "flex: 1 1 14rem; max-width: 17rem" }, pad);

  let [held, stroke] = [null, []];
  const drawn = () => [...(same(own, at(box)) ? own : []), stroke];
  const reach = (event) => {
    const area = pad.getBoundingClientRect();
    const place = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height].map((value) => rounded(clamp(value, [0, 1])));
    if (stroke.length && distance(place, stroke.slice(-2)) < 0.012) return;
    stroke.push(...place);
    put(ink, { d: lineOf(drawn()) });
  };
  pad.addEventListener("pointerdown", (event) => {
    if (event.button || held !== null) return;
    [held, stroke] = [event.pointerId, []];
    pad.setPointerCapture(held);
    event.preventDefault();
    reach(event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (held === event.pointerId) reach(event);
  });
  pad.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  for (const end of ["pointerup", "pointercancel"]) {
    pad.addEventListener(end, (event) => {
      if (held !== event.pointerId) return;
      held = null;
      own = drawn();
      fill(box, own);
    });
  }

  const chosen = element("select", { "aria-label": "ready-made drawings", style: "min-height: 34px; max-width: 100%; font: inherit; color: inherit; background: var(--maml-ground); border: 1px solid var(--maml-soft); border-radius: 0.4rem" }, ...sets.map(({ name }, i) => element("option", { value: i }, name)));
  const symbols = () => sets[Number(chosen.value)].symbols;
  const queries = () => symbols()[0].slice(1).flatMap((_, k) => symbols().map((_, i) => symbols()[(2 * i + k) % symbols().length][k + 1] ?? symbols()[i][1]));
  const change = (act) => () => {
    own = null;
    act();
  };
  const fillReady = change(() => {
    if (box < nWay) fill(box, symbols()[box][0]);
    else fill(box, queries()[asked++ % queries().length]);
  });
  const tools = controls(
    button("Next box", () => open((box + 1) % (nWay + 1))),
    button("Clear this box", change(() => fill(box, []))),
    button("Clear all", change(() => {
      box = 0;
      store(model, { alphabet: letters.map(() => []), query: [] });
    })),
    element("label", {}, "Ready-made: ", chosen),
    button("Fill this box", fillReady),
    button(`Fill ${letters[0]} to ${letters.at(-1)}`, change(() => store(model, { alphabet: symbols().map((symbol) => symbol[0]) }))),
  );
  tools.style.gap = "0.3rem 0.5rem";
  const said = finding();
  const aim = goal("draw a query of which the network is over 90 % sure, while the nearest neighbour names another symbol.");
  const answers = table(["symbol", "before the step", "after one step", "likeness in pixels"], "Confidence of the network, and the cosine with each example");
  answers.node.style.maxWidth = "34rem";
  const bar = (share, text, look) =>
    element("span", { style: "display: flex; gap: 0.4rem; align-items: center; justify-content: flex-end" },
      element("span", { "aria-hidden": "true", style: `flex: 1; max-width: 7rem; height: 0.7rem; border-radius: 0.2rem; background: linear-gradient(90deg, color-mix(in srgb, var(--look-${look}), var(--maml-lift)) ${(100 * share).toFixed(1)}%, var(--maml-rule) 0)` }),
      element("span", { style: "min-width: 2.6em" }, text));
  const percent = (share) => `${(100 * share).toFixed(0)} %`;

  begin(
    model, el, "draw here",
    choices,
    element("div", { style: "display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; align-items: center" }, frame, element("div", { style: "flex: 1.4 1 17rem; min-width: 0" }, answers.node, tools)),
    said.node,
    aim.node,
  );

  let [learned, adapted] = ["", net];
  function answer({ alphabet, query }) {
    const missing = letters.filter((_, i) => !(alphabet[i] ?? []).length);
    if (missing.length) return { words: `Draw one example of each symbol: ${missing.join(", ")} ${missing.length > 1 ? "are" : "is"} still empty.` };
    if (!query.length) return { words: "The examples are there. Open the box ? and draw one of them once more." };
    const [examples, image] = [alphabet.map((drawing) => pixels(drawing, pen)), pixels(query, pen)];
    if (learned !== JSON.stringify(alphabet)) {
      adapted = stepConv4(net, joined(examples), letters.map((_, i) => i), innerLr);
      learned = JSON.stringify(alphabet);
    }
    const [before, after] = [net, adapted].map((weights) => confidences(weights, examples, image));
    const likeness = examples.map((example) => cosine(example, image));
    const top = (values) => values.indexOf(Math.max(...values));
    const [named, nearest] = [top(after), top(likeness)];
    const of = sets.flatMap(({ symbols: all }) => (all.every((symbol, i) => same(symbol[0], alphabet[i])) ? [all.findIndex((symbol) => symbol.some((drawing) => same(drawing, query)))] : [])).filter((i) => i >= 0);
    const truth = of.length ? ` It was drawn as ${letters[of[0]]}.` : "";
    const words =
      `Before the step the network says ${letters[top(before)]}, ${percent(before[top(before)])} sure; after one step on the ${nWay} examples it says ${letters[named]}, ${percent(after[named])} sure. ` +
      `The nearest neighbour ${named === nearest ? "agrees" : `says ${letters[nearest]}`}.${truth}`;
    return { words, before, after, likeness, met: after[named] > 0.9 && named !== nearest };
  }

  function show() {
    boxes.forEach((node, i) => {
      const small = shape("svg", { viewBox: "0 0 100 100", class: "maml-glyph", "aria-hidden": "true" }, put(strokes(5), { d: lineOf(at(i) ?? []) }));
      node.replaceChildren(small, element("span", {}, i < nWay ? letters[i] : "?"));
      press(node, i === box);
    });
    put(ink, { d: lineOf(at(box) ?? []) });
    put(pad, { "aria-label": box < nWay ? `pad for the example of ${letters[box]}` : "pad for the query" });
  }
  function open(i) {
    [box, own] = [i, null];
    show();
  }
  keepDrawn(model, el, ["alphabet", "query"], [], (now) => {
    const { words, before, after, likeness, met } = answer(now);
    show();
    answers.fill(letters.map((letter, i) => [
      "ink", letter,
      ...(after ? [bar(before[i], percent(before[i]), "maml"), bar(after[i], percent(after[i]), "maml"), bar(likeness[i], likeness[i].toFixed(2), "nearest")] : ["–", "–", "–"]),
    ]));
    said.say(words);
    aim.reached(Boolean(met));
  });
}
