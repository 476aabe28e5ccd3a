// Few-shot learning as a game: one labelled drawing of each class, one query, which class is it?

// An SVG of size × size pixels with two bits each; runs of equal ink become one stroke, in the page's own colour.
function drawing(pixels, height, width, label) {
  const strokes = ["", "", "", ""];
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; ) {
      const ink = pixels[row * width + column];
      let end = column + 1;
      while (end < width && pixels[row * width + end] === ink) end += 1;
      if (ink) strokes[ink] += `M${column} ${row}h${end - column}v1h${column - end}z`;
      column = end;
    }
  }
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "maml-glyph", ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }) });
  svg.append(...[1, 2, 3].map((ink) => shape("path", { d: strokes[ink], opacity: (ink / 3).toFixed(2) })));
  return svg;
}

function unpackPixels(packed, count) {
  const bytes = unpackBytes(packed);
  return Uint8Array.from({ length: count }, (_, i) => (bytes[i >> 2] >> (2 * (i & 3))) & 3);
}

function render({ model, el }) {
  const { n_way: nWay, k_shot: kShot, height, width, drawings, answers, rivals } = model.get("settings");
  const size = height * width;
  const perTask = nWay * kShot + 1;
  const pixels = unpackPixels(drawings, answers.length * perTask * size);
  const picture = (task, index, label) => {
    const from = (task * perTask + index) * size;
    return drawing(pixels.subarray(from, from + size), height, width, label);
  };
  const letters = "ABCDEFGHI";
  const query = element("div", { class: "maml-query" });
  const choices = element("div", { class: "maml-choices", style: `--columns: ${Math.min(nWay, 5)}` });
  const next = button("Next task", () => {
    shown += 1;
    draw();
    choices.querySelector("button")?.focus({ preventScroll: true });
  });
  const again = button("Play again", () => {
    shown = 0;
    store(model, { guesses: [] });
    choices.querySelector("button")?.focus({ preventScroll: true });
  });
  const said = finding();
  const aim = goal(`be right at least as often as ${rivals.map(({ name }) => name).join(" and ")}, over all ${counted(answers.length, "task")}.`);
  let shown = model.get("guesses").length;

  const right = (found) => model.get("guesses").filter((_, task) => found[task] === answers[task]).length;
  const score = () => {
    const guesses = model.get("guesses");
    return `Score: you ${right(guesses)} of ${guesses.length}` + rivals.map(({ name, guesses: theirs }) => `, ${name} ${right(theirs)} of ${guesses.length}`).join("") + ".";
  };
  const choose = (choice) => {
    const guesses = model.get("guesses");
    if (guesses.length === shown && shown < answers.length) store(model, { guesses: [...guesses, choice] });
  };

  const draw = () => {
    const guesses = model.get("guesses");
    if (shown > guesses.length) shown = guesses.length;
    const task = Math.min(shown, answers.length - 1);
    const answered = guesses.length > task;
    const guess = guesses[task];
    const done = guesses.length === answers.length;
    query.replaceChildren(
      element("p", {}, `Task ${task + 1} of ${answers.length}: which class does this drawing belong to?`),
      picture(task, nWay * kShot, "the query"),
    );
    const hadFocus = choices.contains(document.activeElement);
    choices.replaceChildren(
      ...range(nWay, (label) => {
        const isRight = !answered ? null : label === answers[task] ? true : label === guess ? false : null;
        const node = button("", () => choose(label));
        node.classList.add("maml-choice");
        put(node, { "aria-label": `class ${letters[label]}${isRight === null ? "" : isRight ? ", the right one" : ", your choice"}` });
        node.disabled = answered;
        node.append(...range(kShot, (shot) => picture(task, label * kShot + shot)), element("span", {}, letters[label] + judge(node, isRight)));
        return node;
      }),
    );
    next.disabled = !answered || done;
    aim.reached(done && rivals.every(({ guesses: theirs }) => right(guesses) >= right(theirs)));
    again.hidden = !guesses.length;
    if (hadFocus && answered) (done ? again : next).focus({ preventScroll: true });
    if (!answered) {
      const how = `Choose with a click, or with the keys 1 to ${nWay} inside the figure.`;
      said.say(guesses.length ? `${score()} ${how}` : `Each class shows ${kShot === 1 ? "one drawing" : kShot + " drawings"}. ${how}`);
    } else {
      const others = rivals.map(({ name, guesses: theirs }) => `${name} says ${letters[theirs[task]]}`).join(", ");
      const yours = guess === answers[task] ? `Right, it is ${letters[guess]}` : `You chose ${letters[guess]}, but it is ${letters[answers[task]]}`;
      said.say(`${yours}${others ? "; " + others : ""}. ${score()}${done ? " That was the last task." : ""}`);
    }
  };
  chooseByDigit(el, () => nWay, choose);
  begin(model, el, "", query, element("p", { class: "maml-small" }, kShot === 1 ? "The support set, one drawing of each class:" : `The support set, ${kShot} drawings of each class:`), choices, controls(next, again), aim.node, said.node);
  followed(model, "guesses", draw);
}
