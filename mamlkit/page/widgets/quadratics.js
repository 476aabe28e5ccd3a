// Quadratic tasks L(θ) = ½ (θ − w)ᵀ A (θ − w) in the plane, and the two optima they have in closed form.

function times(A, v) {
  return A.map((row) => dot(row, v));
}

function product(A, B) {
  return A.map((row) => [0, 1].map((j) => row[0] * B[0][j] + row[1] * B[1][j]));
}

// I − rate · A
function lessTimes(A, rate) {
  return A.map((row, i) => row.map((value, j) => (i === j ? 1 : 0) - rate * value));
}

function scaled(A, factor) {
  return A.map((row) => row.map((value) => factor * value));
}

function sumOf(matrices) {
  return matrices.reduce((total, M) => total.map((row, i) => plus(row, 1, M[i])));
}

// Of a symmetric matrix, the lower one first.
function eigenvalues([[a, b], [, d]]) {
  const [middle, spread] = [(a + d) / 2, Math.hypot((a - d) / 2, b)];
  return [middle - spread, middle + spread];
}

function lossAt(A, w, theta) {
  const away = plus(theta, -1, w);
  return dot(away, times(A, away)) / 2;
}

function innerStep(A, w, theta, innerLr) {
  return plus(theta, -innerLr, times(A, plus(theta, -1, w)));
}

// A (I − αA)²: the curvature that a task has after one inner step.
function curvatureAfter(A, innerLr) {
  const shrink = lessTimes(A, innerLr);
  return product(product(shrink, A), shrink);
}

// argmin of Σ ½ (θ − wᵢ)ᵀ Bᵢ (θ − wᵢ), or null where no single point is best.
function commonOptimum(curvatures, optima) {
  const [[a, b], [c, d]] = sumOf(curvatures);
  const [x, y] = curvatures.map((B, task) => times(B, optima[task])).reduce((total, pull) => plus(total, 1, pull));
  const determinant = a * d - b * c;
  return Math.abs(determinant) < 1e-12 ? null : [(d * x - b * y) / determinant, (a * y - c * x) / determinant];
}

// The ellipse {θ : (θ − centre)ᵀ A (θ − centre) = 2 · level}.
function ellipse(A, centre, level) {
  const tilt = Math.atan2(2 * A[0][1], A[0][0] - A[1][1]) / 2;
  const [flat, steep] = eigenvalues(A).map((curvature) => Math.sqrt((2 * level) / Math.max(curvature, 1e-9)));
  return oval(centre, tilt, [steep, flat]);
}
