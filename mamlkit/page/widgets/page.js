// What every interactive figure is made of: elements, a plane with axes, points to drag, sliders, a spoken finding.
// A figure reads and writes its state through `model` (get, set, on, save_changes), which is an anywidget model
// beside a kernel and a plain object on the published page.

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  put(node, attributes);
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

// 3 significant digits, never "-0", a true minus sign.
function number(value, digits = 3) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "undefined";
  const size = Math.abs(value);
  if (size < 1e-12) return "0";
  let text;
  if (size >= 1e5 || size < 1e-3) {
    const exponent = Math.floor(Math.log10(size));
    const raised = String(exponent).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
    text = (value / 10 ** exponent).toFixed(1) + " × 10" + raised;
  } else {
    text = value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
  }
  return /^-0(\.0+)?$/.test(text) ? text.slice(1) : text.replace("-", "−");
}

// At most two decimals, none that says nothing.
function tick(value) {
  return String(Math.round(value * 100) / 100).replace(/^-0$/, "0").replace("-", "−");
}

function point(coordinates, digits = 2) {
  return "(" + coordinates.map((value) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−")).join(", ") + ")";
}

function store(model, values) {
  for (const [key, value] of Object.entries(values)) model.set(key, value);
  model.save_changes();
}

// Calls draw now, whenever a named part of the state changes, and whenever the figure's width does; a button takes all back.
function keepDrawn(model, keys, planes, draw) {
  for (const key of keys) model.on("change:" + key, draw);
  draw();
  const first = Object.fromEntries(keys.map((key) => [key, model.get(key)]));
  planes[0].frame.closest(".maml-figure").querySelector(".maml-controls").append(button("Reset", () => store(model, first)));
  if (typeof ResizeObserver === "undefined") return;
  const watcher = new ResizeObserver(() => {
    if (planes.filter((plane) => plane.fit()).length) draw();
  });
  for (const plane of planes) watcher.observe(plane.frame);
}

// A drawing of the rectangle x × y with axes. Its unit is the CSS pixel, so text and handles keep their size on a phone.
class Plane {
  constructor({ label, x, y, aspect = 0.62, equal = false, xLabel = "", yLabel = "", yTick = tick, grid = true }) {
    Object.assign(this, { x, y, yWanted: y, aspect, equal, xLabel, yLabel, yTick, grid });
    this.margin = { left: 56, right: 12, top: 12, bottom: 40 };
    this.svg = shape("svg", { role: "group", "aria-label": label, class: "maml-plane" });
    this.axes = shape("g", { "aria-hidden": "true" });
    this.inside = shape("svg", { overflow: "hidden", "aria-hidden": "true" });
    this.above = shape("svg", { overflow: "visible" });
    this.svg.append(this.axes, this.inside, this.above);
    this.frame = element("div", { class: "maml-frame" }, this.svg);
    this.width = 0;
    this.size(640);
  }

  // True when the width at hand is another one than drawn.
  fit() {
    const width = Math.round(this.frame.clientWidth);
    if (width < 40 || Math.abs(width - this.width) < 1) return false;
    this.size(width);
    return true;
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
      this.axes.append(shape("text", { x: across, y: top + this.down + 16, class: "maml-tick", "text-anchor": "middle" }, tick(x)));
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
function handle(plane, { label, step = 0.05, look = "ink", glyph = "circle", moved, keyed = moved }) {
  const mark = {
    circle: () => shape("circle", { r: 8, class: "maml-handle" }),
    cross: () => shape("path", { d: "M-7 -7L7 7M-7 7L7 -7", class: "maml-handle maml-cross" }),
    triangle: () => shape("path", { d: "M0 -10L9 7H-9Z", class: "maml-handle" }),
  }[glyph]();
  const node = shape(
    "g",
    { tabindex: "0", role: "slider", "aria-label": label, class: "maml-grip", style: colour(look) },
    shape("circle", { r: 22, class: "maml-reach" }),
    shape("circle", { r: 13, class: "maml-ring" }),
    mark,
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
      const [across, down] = plane.at(x, y);
      put(node, {
        transform: `translate(${across.toFixed(2)} ${down.toFixed(2)})`,
        "aria-valuemin": plane.x[0].toFixed(2),
        "aria-valuemax": plane.x[1].toFixed(2),
        "aria-valuenow": x.toFixed(2),
        "aria-valuetext": text,
      });
    },
  };
}

// A labelled native slider that follows and sets one number of the state.
function slider(model, key, { label, min, max, step, format = number }) {
  const input = element("input", { type: "range", min, max, step });
  const shown = element("span", { class: "maml-value" });
  const follow = () => {
    input.value = model.get(key);
    shown.textContent = format(model.get(key));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => store(model, { [key]: Number(input.value) }));
  model.on("change:" + key, follow);
  follow();
  return element("label", { class: "maml-slider" }, element("span", {}, label), input, shown);
}

function tickBox(model, key, label) {
  const input = element("input", { type: "checkbox" });
  const follow = () => {
    input.checked = model.get(key);
  };
  input.addEventListener("change", () => store(model, { [key]: input.checked }));
  model.on("change:" + key, follow);
  follow();
  return element("label", { class: "maml-check" }, input, element("span", {}, label));
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
    sample.append(
      {
        line: () => shape("path", { d: "M1 7H27", class: "maml-line" }),
        dashed: () => shape("path", { d: "M1 7H27", class: "maml-line maml-dashed" }),
        dotted: () => shape("path", { d: "M1 7H27", class: "maml-line maml-dotted" }),
        dot: () => shape("circle", { cx: 14, cy: 7, r: 5, class: "maml-dot" }),
        square: () => shape("rect", { x: 9, y: 2, width: 10, height: 10, class: "maml-dot" }),
        triangle: () => shape("path", { d: "M14 1L21 13H7Z", class: "maml-dot" }),
        star: () => shape("path", { d: star(6.5), transform: "translate(14 7.5)", class: "maml-dot" }),
        cross: () => shape("path", { d: "M9 2L19 12M9 12L19 2", class: "maml-line" }),
      }[mark](),
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

// What the figure shows just now, in words and numbers; screen readers hear it when it changes.
function finding() {
  const node = element("p", { class: "maml-finding", role: "status", "aria-live": "polite", "aria-atomic": "true" });
  return {
    node,
    say(text) {
      if (node.textContent !== text) node.textContent = text;
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

// Lays a figure out inside `el` and gives it its colours, name and caption. Where there is room, what one can turn
// stands beside a single drawing, so that drawing and findings are seen together.
function begin(model, el, ...parts) {
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
  if (el.querySelector(".maml-grip")) {
    el.querySelector(".maml-frame").append(element("p", { class: "maml-hint", "aria-hidden": "true" }, "drag the points"));
    for (const kind of ["pointerdown", "keydown"]) el.addEventListener(kind, () => el.classList.add("maml-touched"), { once: true });
  }
}
