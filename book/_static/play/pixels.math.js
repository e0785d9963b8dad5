// An attack on an image of two pixels, as advlib has it: the loss, its gradient, and the path of the iterates.
globalThis.play ??= {};
play.pixels = (() => {
  // The logit of the wrong class: bumps {at: [x, y], height, width} on a floor. The other logit is 0.
  const logit = ([x, y], { floor, bumps }) =>
    bumps.reduce((sum, b) => sum + b.height * Math.exp(-((x - b.at[0]) ** 2 + (y - b.at[1]) ** 2) / (2 * b.width ** 2)), floor);

  // Cross-entropy of the right class.
  const loss = (point, hills) => Math.log1p(Math.exp(logit(point, hills)));

  const gradient = (point, hills) => {
    const odds = 1 / (1 + Math.exp(-logit(point, hills)));
    const part = (axis) =>
      hills.bumps.reduce((sum, b) => {
        const one = logit(point, { floor: 0, bumps: [b] });
        return sum - (one * (point[axis] - b.at[axis])) / b.width ** 2;
      }, 0);
    return [odds * part(0), odds * part(1)];
  };

  // Steps of elastic momentum from `start`, eq. 2.1 to 2.3. project: the look-ahead point is brought back into the box.
  // Each step is {from, ahead, momentum, to}: where it began, where the gradient was taken, g_{t+1}, where it ended.
  const path = (hills, { start, eps, alpha, mu, sigma, steps, project }) => {
    const box = start.map((value) => [Math.max(0, value - eps), Math.min(1, value + eps)]);
    const inside = (point) => point.map((value, k) => Math.min(Math.max(value, box[k][0]), box[k][1]));
    const taken = [];
    let [from, momentum] = [start, [0, 0]];
    for (let t = 0; t < steps; t += 1) {
      const there = from.map((value, k) => value + alpha * sigma * momentum[k]);
      const ahead = project && sigma ? inside(there) : there;
      const slope = gradient(ahead, hills);
      const size = (Math.abs(slope[0]) + Math.abs(slope[1])) / 2;
      momentum = momentum.map((value, k) => mu * value + (size ? slope[k] / size : 0));
      const to = inside(from.map((value, k) => value + alpha * Math.sign(momentum[k])));
      taken.push({ from, ahead, momentum, to });
      from = to;
    }
    return taken;
  };

  return { loss, gradient, path };
})();
