// Quadratic tasks L(θ) = ½ (θ − w)ᵀ A (θ − w) in the plane, and the two optima they have in closed form.

function times(A, v) {
  return [A[0][0] * v[0] + A[0][1] * v[1], A[1][0] * v[0] + A[1][1] * v[1]];
}

function product(A, B) {
  return A.map((row) => [0, 1].map((j) => row[0] * B[0][j] + row[1] * B[1][j]));
}

function lossAt(A, w, theta) {
  const away = [theta[0] - w[0], theta[1] - w[1]];
  const pull = times(A, away);
  return (away[0] * pull[0] + away[1] * pull[1]) / 2;
}

function innerStep(A, w, theta, innerLr) {
  const gradient = times(A, [theta[0] - w[0], theta[1] - w[1]]);
  return [theta[0] - innerLr * gradient[0], theta[1] - innerLr * gradient[1]];
}

// A (I − αA)²: the curvature that a task has after one inner step.
function curvatureAfter(A, innerLr) {
  const shrink = A.map((row, i) => row.map((value, j) => (i === j ? 1 : 0) - innerLr * value));
  return product(product(shrink, A), shrink);
}

// argmin of Σ ½ (θ − wᵢ)ᵀ Bᵢ (θ − wᵢ), or null where no single point is best.
function commonOptimum(curvatures, optima) {
  const [total, right] = [[[0, 0], [0, 0]], [0, 0]];
  curvatures.forEach((B, task) => {
    const pull = times(B, optima[task]);
    for (const i of [0, 1]) {
      right[i] += pull[i];
      for (const j of [0, 1]) total[i][j] += B[i][j];
    }
  });
  const determinant = total[0][0] * total[1][1] - total[0][1] * total[1][0];
  if (Math.abs(determinant) < 1e-12) return null;
  return [
    (total[1][1] * right[0] - total[0][1] * right[1]) / determinant,
    (total[0][0] * right[1] - total[1][0] * right[0]) / determinant,
  ];
}

// The ellipse {θ : (θ − centre)ᵀ A (θ − centre) = 2 · level}.
function ellipse(A, centre, level, corners = 72) {
  const middle = (A[0][0] + A[1][1]) / 2;
  const spread = Math.hypot((A[0][0] - A[1][1]) / 2, A[0][1]);
  const tilt = Math.atan2(2 * A[0][1], A[0][0] - A[1][1]) / 2;
  const radii = [middle + spread, middle - spread].map((curvature) => Math.sqrt((2 * level) / Math.max(curvature, 1e-9)));
  return Array.from({ length: corners + 1 }, (_, i) => {
    const angle = (2 * Math.PI * i) / corners;
    const [u, v] = [radii[0] * Math.cos(angle), radii[1] * Math.sin(angle)];
    return [centre[0] + u * Math.cos(tilt) - v * Math.sin(tilt), centre[1] + u * Math.sin(tilt) + v * Math.cos(tilt)];
  });
}
