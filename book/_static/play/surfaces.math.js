// The worst loss within a radius, on a grid of losses.
globalThis.play ??= {};
play.surfaces = (() => {
  const ANGLES = 180;
  const RINGS = 40; // from the middle to the edge of the grid

  // loss[row][column] at (x, y) between the points of a regular axis, bilinear.
  const between = (loss, axis, x, y) => {
    const spacing = axis[1] - axis[0];
    const cell = (value) => {
      const place = (value - axis[0]) / spacing;
      const low = Math.min(Math.max(Math.floor(place), 0), axis.length - 2);
      return [low, place - low];
    };
    const [[c, u], [r, v]] = [cell(x), cell(y)];
    const along = (row) => loss[row][c] * (1 - u) + loss[row][c + 1] * u;
    return along(r) * (1 - v) + along(r + 1) * v;
  };

  // {value, at}: the largest loss at points of the plane no further than `radius` from the middle.
  const worst = (loss, axis, radius) => {
    let found = { value: between(loss, axis, 0, 0), at: [0, 0] };
    const look = (length) => {
      for (let k = 0; k < ANGLES; k += 1) {
        const at = [Math.cos, Math.sin].map((of) => length * of((2 * Math.PI * k) / ANGLES));
        const value = between(loss, axis, ...at);
        if (value > found.value) found = { value, at };
      }
    };
    for (let ring = 1; ring / RINGS < radius; ring += 1) look(ring / RINGS);
    if (radius > 0) look(radius);
    return found;
  };

  return { between, worst };
})();
