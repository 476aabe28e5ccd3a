// Which bug is it? The curves of a broken program beside those of a healthy one, tests to run on it, names to choose from.

function listed(names) {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0];
}

// By which tests a patient is not the one that was guessed.
function whyNot(patient, guess, tests) {
  const named = (test) => tests[test];
  const due = guess.red.filter((test) => !patient.red.includes(test)).map(named);
  const found = patient.red.filter((test) => !guess.red.includes(test)).map(named);
  return [
    due.length ? `It would turn ${listed(due)} red; this patient leaves ${due.length > 1 ? "them" : "it"} green.` : "",
    found.length ? `It would leave ${listed(found)} green; this patient turns ${found.length > 1 ? "them" : "it"} red.` : "",
  ].filter(Boolean).join(" ");
}

// How many patients were named at the first guess, of how many that were guessed at.
function scoreOf(guesses) {
  const tried = guesses.map((made, i) => [made, i]).filter(([made]) => made.length);
  return [tried.filter(([made, i]) => made[0] === i).length, tried.length];
}

function drawCurves(plane, { printed, examined }) {
  plane.inside.replaceChildren(
    ...[[printed, "printed"], [examined, "examined"]].flatMap(([[at, mean, low, high], look]) => {
      const along = (values) => at.map((x, i) => [x, values[i]]);
      return [
        shape("path", { d: plane.path([...along(low), ...along(high).reverse()]) + "Z", class: "maml-dot", opacity: 0.18, style: colour(look) }),
        shape("path", { d: plane.path(along(mean)), class: "maml-line", style: colour(look) }),
      ];
    }),
  );
}

function render({ model, el }) {
  const { patients, healthy, tests, n_seeds: nSeeds } = model.get("settings");
  const panel = (label) => {
    const plane = new Plane({ label, x: [0, 1], y: [0, 1], aspect: 0.55, xLabel: "meta-step", yLabel: "loss" });
    const head = element("p", { class: "maml-small", style: "margin: 0; text-align: center" });
    return { plane, head, node: element("div", { style: "flex: 1 1 17rem; min-width: 0" }, head, plane.frame) };
  };
  const [ill, well] = [panel("Losses of the patient over its meta-steps"), panel("Losses of a healthy program over its meta-steps")];
  const said = finding();
  const aim = goal("name five patients at the first guess.");
  const score = element("span", { class: "maml-small" });

  const here = () => model.get("patient");
  const asked = (test) => model.get("asked").some(([who, which]) => who === here() && which === test);
  const made = () => model.get("guesses")[here()];
  const solved = () => made().includes(here());
  const go = (who) => store(model, { patient: (who + patients.length) % patients.length });
  const ask = (test) => {
    if (!asked(test)) store(model, { asked: [...model.get("asked"), [here(), test]] });
  };
  const choose = (choice) => {
    const who = patients[here()].choices[choice];
    if (solved() || made().includes(who)) return;
    store(model, { guesses: model.get("guesses").map((list, i) => (i === here() ? [...list, who] : list)) });
  };
  // Nodes stay and keep the focus; what is spent says so and answers no more.
  const answers = (count, act) => range(count, (i) => {
    const node = button("", () => act(i));
    node.classList.add("maml-choice");
    return put(node, { style: "padding: 0.25rem 0.6rem; text-align: left" });
  });
  const choices = answers(Math.max(...patients.map((patient) => patient.choices.length)), choose);
  const testButtons = answers(tests.length, ask);
  const beds = patients.map((_, i) => put(button("", () => go(i)), { style: "min-width: 2.1rem; padding: 0.1rem 0.2rem" }));
  const list = group("Which bug is it?", ...choices);
  list.style.flexDirection = "column";
  const part = (width, heading, ...nodes) => element("div", { style: `flex: ${width}` }, element("p", { class: "maml-small", "aria-hidden": "true" }, heading), ...nodes);

  chooseByDigit(el, () => patients[here()].choices.length, choose);
  begin(
    model, el, "",
    group("The patients", ...beds),
    element("div", { class: "maml-row" }, ill.node, well.node),
    key([["printed", "line", "what it prints"], ["examined", "line", "examined after adaptation"], ["soft", "square", `bands: all ${counted(nSeeds, "seed")}`]]),
    element(
      "div", { class: "maml-row" },
      part("1 1 15rem", "Run a test on it", group("Tests", ...testButtons), controls(button("Next patient", () => go(here() + 1))), score),
      part("1.9 1 17rem", "Which bug is it? Click, or press its number", list),
    ),
    said.node,
    aim.node,
  );

  keepDrawn(model, el, ["patient", "asked", "guesses"], [ill.plane, well.plane], ({ asked: runs, guesses }) => {
    const patient = patients[here()];
    const due = healthy[patient.ward];
    const top = 1.08 * Math.max(...[patient, due].flatMap(({ printed, examined }) => [...printed[3], ...examined[3]]));
    for (const [{ plane }, runs] of [[ill, patient], [well, due]]) {
      plane.show([0, runs.examined[0].at(-1)], [0, top]);
      drawCurves(plane, runs);
    }
    ill.head.textContent = solved() ? `Patient ${here() + 1}: ${patient.name}` : `Patient ${here() + 1}, ${patient.ward}`;
    well.head.textContent = `A healthy program, ${patient.ward}`;
    beds.forEach((node, i) => {
      const [first] = guesses[i];
      const [mark, words] = first === undefined ? ["", ""] : first === i ? ["✓", ", named at the first guess"] : ["✗", ", missed at the first guess"];
      node.textContent = `${i + 1}${mark}`;
      put(node, { "aria-label": `patient ${i + 1}${words}` });
      press(node, i === here());
    });
    testButtons.forEach((node, i) => {
      const isRed = patient.red.includes(i);
      node.textContent = asked(i) ? `${tests[i]}: ${isRed ? "✗ red" : "✓ green"}` : tests[i];
      put(node, { "aria-disabled": asked(i) });
      judge(node, asked(i) ? !isRed : null);
    });
    choices.forEach((node, i) => {
      const who = patient.choices[i];
      node.hidden = who === undefined;
      node.replaceChildren();
      if (node.hidden) return;
      const isRight = made().includes(who) ? who === here() : null;
      node.append(`${i + 1}. `, element("strong", {}, patients[who].name + judge(node, isRight)), ` ${patients[who].says}`);
      put(node, { "aria-disabled": isRight !== null || solved() });
    });
    const [right, tried] = scoreOf(guesses);
    score.textContent = `${right} of ${tried} named at the first guess; ${counted(runs.length, "test")} run`;
    aim.reached(right >= 5);
    const ends = ({ printed, examined }) => [printed[1][0], printed[1].at(-1), examined[1].at(-1)].map(fixed(1));
    const [mine, theirs] = [ends(patient), ends(due)];
    const curves = `It prints ${mine[0]}, then ${mine[1]}, and is examined at ${mine[2]} in the end; the healthy program prints ${theirs[0]}, then ${theirs[1]}, and is examined at ${theirs[2]}.`;
    const looksHealthy = Math.abs(Math.log(patient.examined[1].at(-1) / due.examined[1].at(-1))) < 0.1;
    const last = made().at(-1);
    if (last === undefined) said.say(`Patient ${here() + 1} of ${patients.length}. ${curves} What is wrong with it?`);
    else if (last !== here()) said.say(`Not ${patients[last].name}. ${whyNot(patient, patients[last], tests)} Guess again.`);
    else said.say(`Yes, ${patient.name}: it ${patient.says}. It turns ${listed(patient.red.map((test) => tests[test]))} red${looksHealthy ? ", and by its examination it looks healthy" : ""}.`);
  });
}
