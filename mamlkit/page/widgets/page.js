// What every interactive figure is made of: vectors, words for numbers, elements, a plane with axes, points to drag, sliders,
// choices, a goal, a spoken finding.
// A figure reads and writes its state through `model` (get, set, on, save_changes), which is an anywidget model
// beside a kernel and a plain object on the published page.

function element(tag, attributes = {}, ...children) {
  const node = put(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

function shape(tag, attributes = {}, ...children) {
  const node = put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);
  node.append(...children);
  return node;
}

function put(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function clamp(value, [low, high]) {
  return Math.min(high, Math.max(low, value));
}

// f(0), f(1), … for so many.
function range(count, f) {
  return Array.from({ length: count }, (_, i) => f(i));
}

function mean(values) {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

function dot(u, v) {
  return u.reduce((sum, value, i) => sum + value * v[i], 0);
}

// u + factor v
function plus(u, factor, v) {
  return u.map((value, i) => value + factor * v[i]);
}

function distance(u, v) {
  return Math.hypot(...plus(u, -1, v));
}

// The ellipse around `centre` whose half axes are turned from those of the plane.
function oval(centre, turn, halves) {
  const [cos, sin] = [Math.cos(turn), Math.sin(turn)];
  return range(121, (i) => {
    const [u, v] = [halves[0] * Math.cos((Math.PI * i) / 60), halves[1] * Math.sin((Math.PI * i) / 60)];
    return [centre[0] + u * cos - v * sin, centre[1] + u * sin + v * cos];
  });
}

// To three decimals, which is what a page stores of what is dragged.
function rounded(value) {
  return Math.round(value * 1000) / 1000;
}

function unpackBytes(packed) {
  return Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
}

// The float32 numbers in base64, as `packed` in Python writes them.
function unpackFloats(packed) {
  const view = new DataView(unpackBytes(packed).buffer);
  return Float64Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

// 3 significant digits, all those before the point, never "-0", a true minus sign.
function number(value, digits = 3) {
  if (Number.isNaN(value)) return "undefined";
  const [sign, size] = [value < 0 ? "−" : "", Math.abs(value)];
  if (size === Infinity) return sign + "∞";
  if (size < 1e-12) return "0";
  // of the number as it is rounded: 9.996 is 10.0
  const exponent = Number(size.toExponential(digits - 1).split("e")[1]);
  if (size < 99999.5 && exponent >= -3) return sign + size.toFixed(Math.max(0, digits - 1 - exponent));
  const [factor, power] = size.toExponential(1).split("e");
  return `${sign}${factor} × ${powerOfTen(Number(power))}`;
}

function powerOfTen(exponent) {
  return "10" + String(exponent).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
}

// A function that writes a number with so many decimals, never "-0", with a true minus sign.
function fixed(digits) {
  return (value) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
}

// At most two decimals, none that says nothing.
function tick(value) {
  return String(Math.round(value * 100) / 100).replace("-", "−");
}

function point(coordinates, digits = 2) {
  return `(${coordinates.map(fixed(digits)).join(", ")})`;
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function store(model, values) {
  for (const [key, value] of Object.entries(values)) model.set(key, value);
  model.save_changes();
}

// Calls draw(now) with the named parts of the state now, whenever one of them changes, and whenever a drawing's width does; a
// button takes all back. Returns what draws again.
function keepDrawn(model, el, keys, drawings, draw) {
  const now = () => Object.fromEntries(keys.map((key) => [key, model.get(key)]));
  const again = () => draw(now());
  for (const key of keys) model.on("change:" + key, again);
  again();
  const first = now();
  el.querySelector(".maml-controls").append(button("Reset", () => store(model, first)));
  if (typeof ResizeObserver !== "undefined") {
    const watcher = new ResizeObserver(() => {
      if (drawings.filter((drawing) => drawing.fit()).length) again();
    });
    for (const drawing of drawings) watcher.observe(drawing.frame);
  }
  return again;
}

// A drawing whose unit is the CSS pixel, so that text and handles keep their size on a phone.
class Drawing {
  constructor(label, role) {
    this.svg = shape("svg", { role, "aria-label": label, class: "maml-plane" });
    this.frame = element("div", { class: "maml-frame" }, this.svg);
    this.width = 640;
  }

  // True when the width at hand is another one than drawn.
  fit() {
    const width = Math.round(this.frame.clientWidth);
    if (width < 40 || width === this.width) return false;
    this.size(width);
    return true;
  }

  size(width) {
    this.width = width;
  }
}

// A drawing of the rectangle x × y with axes.
class Plane extends Drawing {
  constructor({ label, x, y, aspect = 0.62, equal = false, xLabel = "", yLabel = "", xTick = tick, yTick = tick, grid = true, left = 56 }) {
    super(label, "group");
    Object.assign(this, { x, y, aspect, equal, xLabel, yLabel, xTick, yTick, grid });
    this.margin = { left, right: 12, top: 12, bottom: 40 };
    this.axes = shape("g", { "aria-hidden": "true" });
    this.inside = shape("svg", { overflow: "hidden", "aria-hidden": "true" });
    this.above = shape("svg", { overflow: "visible" });
    this.svg.append(this.axes, this.inside, this.above);
    this.size(this.width);
  }

  // Shows another rectangle from now on.
  show(x, y) {
    Object.assign(this, { x, y, x0: x });
    this.size(this.width);
  }

  size(width) {
    const { left, right, top, bottom } = this.margin;
    this.width = width;
    this.across = width - left - right;
    this.down = Math.round(clamp(this.across * this.aspect, [210, 340]));
    if (this.equal) {
      // One unit is as long across as down: the height is kept and the wider side shows more.
      const middle = (this.x0 ?? (this.x0 = this.x)).reduce((a, b) => a + b) / 2;
      const half = ((this.y[1] - this.y[0]) / 2) * (this.across / this.down);
      this.x = [middle - half, middle + half];
    }
    this.height = this.down + top + bottom;
    put(this.svg, { viewBox: `0 0 ${width} ${this.height}`, width: "100%" });
    for (const layer of [this.inside, this.above]) put(layer, { x: left, y: top, width: this.across, height: this.down });
    this.drawAxes();
  }

  // Position inside the frame of axes.
  at(x, y) {
    return [
      ((x - this.x[0]) / (this.x[1] - this.x[0])) * this.across,
      (1 - (y - this.y[0]) / (this.y[1] - this.y[0])) * this.down,
    ];
  }

  // Puts a shape that is drawn around the origin to a place, or hides it where there is none.
  put(node, place) {
    node.style.display = place ? "" : "none";
    if (place) put(node, { transform: `translate(${this.at(...place).map((value) => value.toFixed(2)).join(" ")})` });
    return node;
  }

  // A shape inside the axes for a line of this look.
  line(look, ...styles) {
    return this.inside.appendChild(shape("path", { class: ["line", ...styles].map((style) => `maml-${style}`).join(" "), style: colour(look) }));
  }

  // A small shape inside the axes, to be put somewhere.
  mark(look, kind, size) {
    return this.inside.appendChild(glyph(kind, size, { class: kind === "cross" ? "maml-line" : "maml-dot maml-outlined", style: colour(look) }));
  }

  // A dot at each of these places; those far outside are left out.
  dots(places, size) {
    const isNear = (place) => this.at(...place).every((value) => Math.abs(value) < 1e4);
    return places.filter(isNear).map((place) => this.put(glyph("dot", size, { class: "maml-dot" }), place));
  }

  // The point of the plane under the mouse or finger.
  under(event) {
    const box = this.svg.getBoundingClientRect();
    const scale = this.width / box.width;
    const across = ((event.clientX - box.left) * scale - this.margin.left) / this.across;
    const down = ((event.clientY - box.top) * scale - this.margin.top) / this.down;
    return [
      clamp(this.x[0] + across * (this.x[1] - this.x[0]), this.x),
      clamp(this.y[1] - down * (this.y[1] - this.y[0]), this.y),
    ];
  }

  path(points) {
    const reach = 20 * this.down;  // far outside is as good as infinity, and no renderer overflows
    return points
      .filter(([x, y]) => !Number.isNaN(x) && !Number.isNaN(y))
      .map(([x, y], index) => {
        const [across, down] = this.at(x, y).map((value) => clamp(value, [-reach, reach]).toFixed(2));
        return `${index ? "L" : "M"}${across} ${down}`;
      })
      .join("");
  }

  drawAxes() {
    const { left, top } = this.margin;
    const tickStep = ([low, high], pixels) => {
      const rough = ((high - low) * 55) / pixels;
      const power = 10 ** Math.floor(Math.log10(rough));
      return [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    };
    const ticks = (range, pixels) => {
      const step = tickStep(range, pixels);
      const found = [];
      for (let i = Math.ceil(range[0] / step - 1e-9); i * step <= range[1] + 1e-9; i += 1) found.push(i * step);
      return found;
    };
    this.axes.replaceChildren(shape("rect", { x: left, y: top, width: this.across, height: this.down, class: "maml-ground" }));
    for (const x of ticks(this.x, this.across)) {
      const across = left + this.at(x, this.y[0])[0];
      if (this.grid) this.axes.append(shape("line", { x1: across, x2: across, y1: top, y2: top + this.down, class: "maml-grid" }));
      this.axes.append(shape("text", { x: across, y: top + this.down + 16, class: "maml-tick", "text-anchor": "middle" }, this.xTick(x)));
    }
    for (const y of ticks(this.y, this.down * 1.4)) {
      const down = top + this.at(this.x[0], y)[1];
      if (this.grid) this.axes.append(shape("line", { x1: left, x2: left + this.across, y1: down, y2: down, class: "maml-grid" }));
      this.axes.append(shape("text", { x: left - 6, y: down + 4, class: "maml-tick", "text-anchor": "end" }, this.yTick(y)));
    }
    this.axes.append(
      shape("text", { x: left + this.across / 2, y: top + this.down + 34, class: "maml-axis", "text-anchor": "middle" }, this.xLabel),
      shape("text", { x: 12, y: top + this.down / 2, class: "maml-axis", "text-anchor": "middle", transform: `rotate(-90 12 ${top + this.down / 2})` }, this.yLabel),
    );
  }
}

function colour(name) {
  return `--c: var(--look-${name})`;
}

function arrow(layer, attributes) {
  const line = shape("path", { ...attributes, class: "maml-line" });
  const head = shape("path", { ...attributes, class: "maml-dot" });
  layer.append(line, head);
  return (from, to) => {
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    const length = Math.hypot(dx, dy);
    const hidden = !(length > 2);
    for (const part of [line, head]) part.style.display = hidden ? "none" : "";
    if (hidden) return;
    const size = Math.min(10, length * 0.6);
    const [ux, uy] = [dx / length, dy / length];
    const [bx, by] = [to[0] - ux * size, to[1] - uy * size];
    put(line, { d: `M${from[0]} ${from[1]}L${bx} ${by}` });
    put(head, { d: `M${to[0]} ${to[1]}L${bx - uy * size * 0.45} ${by + ux * size * 0.45}L${bx + uy * size * 0.45} ${by - ux * size * 0.45}Z` });
  };
}

// A point that mouse, finger and arrow keys move (Shift: ten times as far). `moved` gets the wanted place.
function handle(plane, { label, step = 0.05, look = "ink", kind = "dot", moved, keyed = moved }) {
  const node = shape(
    "g",
    { tabindex: "0", role: "slider", "aria-label": label, class: "maml-grip", style: colour(look) },
    shape("circle", { r: 22, class: "maml-reach" }),
    shape("circle", { r: 13, class: "maml-ring" }),
    glyph(kind, { dot: 8, cross: 7, triangle: 10 }[kind], { class: `maml-handle maml-${kind}` }),
  );
  let held = null;
  node.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    held = event.pointerId;
    node.setPointerCapture(held);
    node.focus({ preventScroll: true });
    event.preventDefault();
  });
  node.addEventListener("pointermove", (event) => {
    if (held === event.pointerId) moved(plane.under(event));
  });
  // `touch-action` says nothing on a part of a drawing: without this a finger that goes up scrolls the page.
  node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    node.addEventListener(end, () => {
      held = null;
    });
  }
  let here = [0, 0];
  node.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const far = step * (event.shiftKey ? 10 : 1);
    keyed([clamp(here[0] + way[0] * far, plane.x), clamp(here[1] + way[1] * far, plane.y)], way);
  });
  plane.above.append(node);
  return {
    node,
    show(x, y, text) {
      here = [x, y];
      put(plane.put(node, [x, y]), {
        "aria-valuemin": plane.x[0].toFixed(2),
        "aria-valuemax": plane.x[1].toFixed(2),
        "aria-valuenow": x.toFixed(2),
        "aria-valuetext": text,
      });
    },
  };
}

// Calls `follow` now and whenever a part of the state changes.
function followed(model, key, follow) {
  model.on("change:" + key, () => follow(model.get(key)));
  follow(model.get(key));
}

// A labelled native slider that follows and sets a part of the state: the number that is read of it, and what is written for it.
function slider(model, key, { label, min, max, step, format = number, read = Number, write = Number }) {
  const input = element("input", { type: "range", min, max, step });
  const shown = element("span", { class: "maml-value" });
  input.addEventListener("input", () => store(model, { [key]: write(Number(input.value)) }));
  followed(model, key, (value) => {
    input.value = read(value);
    shown.textContent = format(value);
    input.setAttribute("aria-valuetext", shown.textContent);
  });
  return element("label", { class: "maml-slider" }, element("span", {}, label), input, shown);
}

function tickBox(model, key, label) {
  const input = element("input", { type: "checkbox" });
  input.addEventListener("change", () => store(model, { [key]: input.checked }));
  followed(model, key, (value) => {
    input.checked = value;
  });
  return element("label", { class: "maml-check" }, input, element("span", {}, label));
}

// Buttons side by side, under one name.
function group(label, ...buttons) {
  return element("div", { role: "group", "aria-label": label, class: "maml-group" }, ...buttons);
}

// A button for each of these pairs of value and text; the one whose value a part of the state has is pressed.
function choice(model, key, label, options) {
  const nodes = options.map(([value, text]) => button(text, () => store(model, { [key]: value })));
  followed(model, key, (now) => nodes.forEach((node, i) => press(node, options[i][0] === now)));
  return group(label, ...nodes);
}

function press(node, isPressed) {
  put(node, { "aria-pressed": isPressed });
}

// Marks a choice as the right one, a wrong one, or (null) neither; returns the mark.
function judge(node, isRight) {
  node.classList.toggle("maml-right", isRight === true);
  node.classList.toggle("maml-wrong", isRight === false);
  return isRight === null ? "" : isRight ? " ✓" : " ✗";
}

// The digits choose as a click on the first, second, … of `count()` choices does.
function chooseByDigit(el, count, choose) {
  el.addEventListener("keydown", (event) => {
    const choice = Number(event.key) - 1;
    if (event.altKey || event.ctrlKey || event.metaKey || !(choice >= 0 && choice < count())) return;
    event.preventDefault();
    event.stopPropagation();
    choose(choice);
  });
}

function button(label, pressed) {
  const node = element("button", { type: "button", class: "maml-button" }, label);
  node.addEventListener("click", pressed);
  return node;
}

function key(entries) {
  const list = element("ul", { class: "maml-key" });
  for (const [look, mark, text] of entries) {
    const sample = shape("svg", { viewBox: "0 0 28 14", width: 28, height: 14, "aria-hidden": "true", style: colour(look) });
    const isLine = ["line", "dashed", "dotted"].includes(mark);
    const lined = { d: "M1 7H27", class: `maml-line maml-${mark}` };
    sample.append(
      isLine ? shape("path", lined) : glyph(mark, mark === "star" || mark === "triangle" ? 7 : 5, { class: mark === "cross" ? "maml-line" : "maml-dot", transform: "translate(14 7)" }),
    );
    list.append(element("li", {}, sample, text));
  }
  return list;
}

function star(radius) {
  const corners = [];
  for (let i = 0; i < 10; i += 1) {
    const [angle, r] = [(Math.PI * i) / 5, i % 2 ? radius * 0.45 : radius];
    corners.push(`${(r * Math.sin(angle)).toFixed(2)} ${(-r * Math.cos(angle)).toFixed(2)}`);
  }
  return "M" + corners.join("L") + "Z";
}

// A small shape around the origin.
function glyph(kind, size, attributes) {
  if (kind === "dot") return shape("circle", { r: size, ...attributes });
  const d = {
    cross: `M${-size} ${-size}L${size} ${size}M${-size} ${size}L${size} ${-size}`,
    square: `M${-size} ${-size}H${size}V${size}H${-size}Z`,
    triangle: `M0 ${-size}L${0.9 * size} ${0.7 * size}H${-0.9 * size}Z`,
    star: star(size),
  }[kind];
  return shape("path", { d, ...attributes });
}

// A paragraph that screen readers hear when it changes.
function spoken(name, ...parts) {
  return element("p", { class: name, role: "status", "aria-live": "polite", "aria-atomic": "true" }, ...parts);
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// What the figure shows just now, in words and numbers.
function finding() {
  const node = spoken("maml-finding");
  return { node, say: (text) => say(node, text) };
}

// What the reader is to reach; it says so once it is reached.
function goal(text) {
  const head = element("strong");
  const node = spoken("maml-small", head, text);
  return {
    node,
    reached(met) {
      say(head, met ? "✓ Goal reached: " : "Goal: ");
      node.style.color = met ? "var(--maml-ink)" : "";
    },
  };
}

function table(header, caption) {
  const body = element("tbody");
  const node = element(
    "table",
    { class: "maml-table" },
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...header.map((text) => element("th", { scope: "col" }, text)))),
    body,
  );
  return {
    node,
    fill(rows) {
      body.replaceChildren(
        ...rows.map(([look, ...cells]) =>
          element("tr", {}, ...cells.map((text, i) => (i ? element("td", {}, text) : element("th", { scope: "row", style: colour(look), class: "maml-swatch" }, text)))),
        ),
      );
    },
  };
}

function sideBySide(...drawings) {
  return element("div", { class: "maml-row" }, ...drawings.map((drawing) => drawing.frame));
}

function controls(...parts) {
  return element("div", { class: "maml-controls" }, ...parts);
}

// Lays a figure out inside `el` and gives it its colours, name and caption. Where there is room, what one can turn
// stands beside a single drawing, so that drawing and findings are seen together. The hint, if there is one, says how to begin.
function begin(model, el, hint, ...parts) {
  const isBeside = (part) => parts[0].matches(".maml-frame") && part.matches(".maml-key, .maml-controls");
  const beside = parts.filter(isBeside);
  if (beside.length) {
    parts = [element("div", { class: "maml-body" }, parts[0], element("div", { class: "maml-side" }, ...beside)), ...parts.slice(1).filter((part) => !isBeside(part))];
  }
  const settings = model.get("settings");
  el.classList.add("maml-figure", "mathjax_ignore", "tex2jax_ignore");
  put(el, { role: "group", "aria-label": settings.title });
  for (const [name, value] of Object.entries(settings.colours)) el.style.setProperty("--look-" + name, value);
  el.replaceChildren(element("p", { class: "maml-title", "aria-hidden": "true" }, settings.title), ...parts);
  if (settings.caption) el.append(element("p", { class: "maml-caption" }, settings.caption));
  if (hint) el.querySelector(".maml-frame").append(element("p", { class: "maml-hint", "aria-hidden": "true" }, hint));
  for (const kind of ["pointerdown", "keydown"]) el.addEventListener(kind, () => el.classList.add("maml-touched"), { once: true });
}
