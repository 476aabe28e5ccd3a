// A linear policy on the plane that meets a goal: its rollouts, its REINFORCE step, and what each costs.

// Standard normal numbers that depend on the seed alone (mulberry32, then Box and Muller).
function normals(seed, count) {
  let state = Math.imul(seed + 1, 0x9e3779b1);
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  const drawn = new Float64Array(count + (count % 2));
  for (let i = 0; i < count; i += 2) {
    const [radius, angle] = [Math.sqrt(-2 * Math.log(uniform())), 2 * Math.PI * uniform()];
    [drawn[i], drawn[i + 1]] = [radius * Math.cos(angle), radius * Math.sin(angle)];
  }
  return drawn.subarray(0, count);
}

// One episode from the origin for every 2 · horizon numbers of `noise`: states before each action, and costs after it.
function rollOut({ K, b }, goal, noise, { horizon, noise: sigma, limit }) {
  const episodes = [];
  for (let at = 0; at < noise.length; at += 2 * horizon) {
    let [x, y] = [0, 0];
    const [states, costs] = [[], []];
    for (let t = 0; t < horizon; t += 1) {
      states.push([x, y]);
      const action = [0, 1].map((j) => x * K[0][j] + y * K[1][j] + b[j] + sigma * noise[at + 2 * t + j]);
      x += clamp(action[0], [-limit, limit]);
      y += clamp(action[1], [-limit, limit]);
      costs.push((x - goal[0]) ** 2 + (y - goal[1]) ** 2);
    }
    episodes.push({ states, costs, path: [...states, [x, y]] });
  }
  return episodes;
}

function meanCost(episodes) {
  return mean(episodes.map(({ costs }) => costs.reduce((a, b) => a + b)));
}

// One step along REINFORCE: an action is charged for the costs that follow, less their mean over the episodes.
// The derivative of log π in the mean action is the noise divided by σ.
function reinforce({ K, b }, episodes, noise, { horizon, noise: sigma }, innerLr) {
  const n = episodes.length;
  const toCome = episodes.map(({ costs }) => {
    let sum = 0;
    return costs.map((_, t) => (sum += costs[horizon - 1 - t])).reverse();
  });
  const [slopeK, slopeB] = [[[0, 0], [0, 0]], [0, 0]];
  for (let t = 0; t < horizon; t += 1) {
    const mean = toCome.reduce((sum, later) => sum + later[t], 0) / n;
    episodes.forEach(({ states }, e) => {
      for (const j of [0, 1]) {
        const push = ((toCome[e][t] - mean) * noise[2 * (e * horizon + t) + j]) / (sigma * n);
        slopeB[j] += push;
        for (const i of [0, 1]) slopeK[i][j] += states[t][i] * push;
      }
    });
  }
  return {
    K: K.map((row, i) => row.map((value, j) => value - innerLr * slopeK[i][j])),
    b: b.map((value, j) => value - innerLr * slopeB[j]),
  };
}

// The cost of the cheapest of K = −kI, b = k · goal.
function oracleCost(gains, goal, noise, world) {
  return Math.min(...gains.map((k) => meanCost(rollOut({ K: [[-k, 0], [0, -k]], b: goal.map((g) => k * g) }, goal, noise, world))));
}

function adaptTo(policy, goal, seed, rollouts, world, innerLr) {
  const noise = normals(seed, rollouts * world.horizon * 2);
  const support = rollOut(policy, goal, noise, world);
  return { support, adapted: reinforce(policy, support, noise, world, innerLr) };
}

const TRIALS = 100;  // episodes that a cost is the mean of
const DRAWS = 30;  // other supports, to show the luck of one

function render({ model, el }) {
  const { policy, world, goals, gains, inner_lr: innerLr, reach } = model.get("settings");
  const side = reach * 1.24;
  const plane = new Plane({ label: "The plane, the goal and the paths", x: [-side, side], y: [-side, side], equal: true, aspect: 0.9, grid: false, xLabel: "x", yLabel: "y" });
  const square = plane.line("soft", "quiet", "dashed");
  const stars = goals.map(() => plane.mark("soft", "star", 9));
  const [before, after] = [plane.line("before", "thin"), plane.line("maml", "thin")];
  const trial = normals(-2, TRIALS * world.horizon * 2);  // the same for every policy; no reader's seed is below 0

  const placed = (place) => store(model, { goal: place.map((value) => clamp(rounded(value), [-reach, reach])) });
  const grip = handle(plane, { label: "goal", look: "goal", kind: "cross", step: 0.02, moved: placed });
  plane.svg.style.cursor = "pointer";
  plane.svg.addEventListener("click", (event) => {
    if (grip.node.contains(event.target)) return;
    const place = plane.under(event);
    const nearest = goals.reduce((a, b) => (distance(b, place) < distance(a, place) ? b : a));
    placed(distance(nearest, place) < 0.12 * reach ? nearest : place);
  });
  let asked = goals.findIndex((place) => distance(place, model.get("goal")) < 1e-3);
  const said = finding();
  const aim = goal(`find a place for the goal where the step helps in fewer than half of the ${DRAWS} other draws.`);
  const costs = table(["policy", "mean cost"], `Over ${TRIALS} episodes, the same noise for all`);

  begin(
    model, el, "click or drag the goal",
    plane.frame,
    key([["goal", "cross", "the goal, yours to move"], ["before", "line", "support rollouts, before"], ["maml", "line", "five episodes after the step"], ["soft", "star", `${goals.length} goals to click`]]),
    controls(
      slider(model, "rollouts", { label: "rollouts", min: 2, max: 60, step: 1, format: String }),
      button("New rollouts", () => store(model, { seed: model.get("seed") + 1 })),
      button("Next goal", () => placed(goals[(asked = (asked + 1) % goals.length)])),
    ),
    aim.node,
    said.node,
    costs.node,
  );
  keepDrawn(model, el, ["goal", "seed", "rollouts"], [plane], ({ goal, seed, rollouts }) => {
    const { support, adapted } = adaptTo(policy, goal, seed, rollouts, world, innerLr);
    const tried = (policy) => rollOut(policy, goal, trial, world);
    const others = range(DRAWS, (i) => meanCost(tried(adaptTo(policy, goal, 1000000 + i, rollouts, world, innerLr).adapted)));
    const trials = tried(adapted);
    const cost = { before: meanCost(tried(policy)), after: meanCost(trials), oracle: oracleCost(gains, goal, trial, world) };
    const lower = others.filter((value) => value < cost.before).length;

    put(square, { d: plane.path([[-reach, -reach], [reach, -reach], [reach, reach], [-reach, reach], [-reach, -reach]]) });
    stars.forEach((node, i) => plane.put(node, goals[i]));
    put(before, { d: support.map(({ path }) => plane.path(path)).join("") });
    put(after, { d: trials.slice(0, 5).map(({ path }) => plane.path(path)).join("") });
    grip.show(...goal, `goal at ${point(goal, 3)}`);
    costs.fill([["before", "before the step", cost.before.toFixed(2)], ["maml", "after the step", cost.after.toFixed(2)], ["oracle", "told the goal", cost.oracle.toFixed(2)]]);
    aim.reached(lower < DRAWS / 2);
    said.say(
      `Goal ${point(goal)}: a step on ${counted(rollouts, "rollout")} (draw ${seed + 1}) takes the cost from ${cost.before.toFixed(2)} to ${cost.after.toFixed(2)}; told the goal it is ${cost.oracle.toFixed(2)}. ` +
        `Other rollouts of the same number end between ${Math.min(...others).toFixed(2)} and ${Math.max(...others).toFixed(2)}; ${lower} of ${DRAWS} lower the cost.`,
    );
  });
}
