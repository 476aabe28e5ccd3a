// The drawing of the front page, to drag: a start θ, three tasks with their optima, one gradient step on each.
// Without scripts it stays the picture that it is.
{
  const svg = document.querySelector(".hero svg");
  const figure = svg.closest("figure");
  const make = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const RATE = 0.65;  // of a step, in units of the inverse curvature along an ellipse's longer axis
  const tasks = ["a", "b", "c"].map((name) => {
    const hill = svg.querySelector(`.hills .${name}`);
    const [x, y, angle] = hill.getAttribute("transform").match(/-?[\d.]+/g).map(Number);
    const ring = hill.lastElementChild;
    const [cos, sin] = [Math.cos((angle * Math.PI) / 180), Math.sin((angle * Math.PI) / 180)];
    const steep = (ring.getAttribute("rx") / ring.getAttribute("ry")) ** 2;
    // The loss is half the square of the distance along the ellipse's axes, times 1 and `steep`.
    const curvature = [cos * cos + steep * sin * sin, (1 - steep) * cos * sin, sin * sin + steep * cos * cos];
    return { name, hill, angle, at: [x, y], curvature, label: svg.querySelector(`.label.${name}`) };
  });
  const times = ([p, q, r], [x, y]) => [p * x + q * y, q * x + r * y];
  const step = (theta, { at, curvature }) => {
    const slope = times(curvature, [theta[0] - at[0], theta[1] - at[1]]);
    return [theta[0] - RATE * slope[0], theta[1] - RATE * slope[1]];
  };
  const lossAfter = (theta) => tasks.reduce((sum, task) => {
    const off = step(theta, task).map((value, i) => value - task.at[i]);
    const slope = times(task.curvature, off);
    return sum + (off[0] * slope[0] + off[1] * slope[1]) / 2;
  }, 0);
  // lossAfter is a parabola: three slopes by differences give its lowest place exactly.
  const best = () => {
    const f = lossAfter;
    const [o, x, y] = [f([0, 0]), f([1, 0]), f([0, 1])];
    const [xx, yy, xy] = [f([2, 0]) - 2 * x + o, f([0, 2]) - 2 * y + o, f([1, 1]) - x - y + o];
    const [gx, gy] = [x - o - xx / 2, y - o - yy / 2];
    const determinant = xx * yy - xy * xy;
    return [(xy * gy - yy * gx) / determinant, (xy * gx - xx * gy) / determinant];
  };

  let theta = ["cx", "cy"].map((name) => Number(svg.querySelector(".theta").getAttribute(name)));
  const grips = [...tasks.map(({ name }, i) => ({ name, label: `optimum of task ${i + 1}` })), { name: "start", label: "start θ" }];
  const place = (i) => (i < 3 ? tasks[i].at : theta);
  const said = document.createElement("p");
  said.setAttribute("role", "status");
  said.className = "said";
  said.textContent = "Drag θ or a coloured optimum: each arrow is one gradient step.";
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Other tasks";
  const reset = document.createElement("button");
  reset.type = "button";
  reset.textContent = "Reset";
  const buttons = document.createElement("p");
  buttons.className = "turn";
  buttons.append(again, reset);
  figure.append(said, buttons);

  svg.setAttribute("role", "group");
  for (const [i, grip] of grips.entries()) {
    const node = make("g", { class: `grip ${grip.name}`, tabindex: 0, role: "slider", "aria-label": grip.label, "aria-valuemin": 0, "aria-valuemax": 480 }, make("circle", { r: 26, class: "reach" }), make("circle", { r: i < 3 ? 13 : 23, class: "ring" }));
    grip.node = node;
    let held = null;
    const move = ([x, y]) => {
      const to = [Math.min(462, Math.max(18, x)), Math.min(412, Math.max(18, y))];
      if (i < 3) tasks[i].at = to;
      else theta = to;
      draw();
    };
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held = event.pointerId;
      node.setPointerCapture(held);
      node.focus({ preventScroll: true });
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (held !== event.pointerId) return;
      const box = svg.getBoundingClientRect();
      move([((event.clientX - box.left) * 480) / box.width, ((event.clientY - box.top) * 430) / box.height]);
    });
    node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) node.addEventListener(end, () => (held = null));
    node.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      move(place(i).map((value, j) => value + way[j] * (event.shiftKey ? 20 : 4)));
    });
    svg.append(node);
  }

  function draw() {
    figure.classList.add("moved");
    for (const { name, hill, angle, at } of tasks) {
      hill.setAttribute("transform", `translate(${at.join(" ")}) rotate(${angle})`);
      const dot = svg.querySelector(`.${name}.best`);
      dot.setAttribute("cx", at[0]);
      dot.setAttribute("cy", at[1]);
    }
    for (const task of tasks) {
      const [line, head] = ["step", "head"].map((kind) => svg.querySelector(`.${task.name}.${kind}`));
      const end = step(theta, task);
      const way = [end[0] - theta[0], end[1] - theta[1]];
      const long = Math.hypot(...way);
      for (const part of [line, head, task.label]) part.style.visibility = long > 24 ? "" : "hidden";
      if (long <= 24) continue;
      const [ux, uy] = way.map((value) => value / long);
      const neck = [end[0] - 17 * ux, end[1] - 17 * uy];
      line.setAttribute("d", `M${theta.join(" ")} L${neck.join(" ")}`);
      task.label.setAttribute("x", end[0] + 22 * uy);
      task.label.setAttribute("y", end[1] - 22 * ux + 7);
      head.setAttribute("d", `M${end.join(" ")} L${neck[0] - 10 * uy} ${neck[1] + 10 * ux} L${neck[0] + 10 * uy} ${neck[1] - 10 * ux} Z`);
    }
    for (const node of svg.querySelectorAll(".theta, .theta-ring")) {
      node.setAttribute("cx", theta[0]);
      node.setAttribute("cy", theta[1]);
    }
    const letter = svg.querySelector("text.on");
    letter.setAttribute("x", theta[0]);
    letter.setAttribute("y", theta[1] + 7);
    svg.querySelector(".walk").setAttribute("d", `M52 408 C 120 330, 205 385, ${(theta[0] + 180) / 2} ${(theta[1] + 414) / 2} S ${theta[0] - 14} ${theta[1] + 40}, ${theta[0]} ${theta[1] + 8}`);
    speak();
  }
  function show() {
    for (const [i, { node }] of grips.entries()) {
      const [x, y] = place(i);
      node.setAttribute("transform", `translate(${x} ${y})`);
      node.setAttribute("aria-valuenow", Math.round(x));
      node.setAttribute("aria-valuetext", `${Math.round(x)} across, ${Math.round(y)} down`);
    }
  }
  function speak() {
    show();
    const [now, least] = [lossAfter(theta), lossAfter(best())];
    // where the three optima are one, the least is nothing
    said.textContent = now < 1.05 * least + 1
      ? "✓ Here the three steps land deepest: this θ is what MAML looks for."
      : `Goal: put θ where the three steps land deepest. Their mean loss is ${now < 100 * least ? (now / least).toFixed(1) : "over a hundred"} times the least.`;
  }
  const begin = JSON.stringify([theta, ...tasks.map(({ at }) => at)]);
  const put = (to) => {
    [theta] = to;
    tasks.forEach((task, i) => (task.at = to[i + 1]));
    draw();
  };
  const others = [
    [[120, 80], [400, 70], [90, 330], [300, 300]],
    [[380, 360], [330, 60], [420, 200], [150, 110]],
    [[90, 220], [240, 60], [390, 150], [250, 340]],
  ];
  let turn = 0;
  again.addEventListener("click", () => put(others[turn++ % others.length].map((at) => [...at])));
  reset.addEventListener("click", () => put(JSON.parse(begin)));
  show();
}
