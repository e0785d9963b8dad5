// Axes, scales and shaded maps that the drawings share.
(() => {
  const { element } = play;
  const EDGE = { left: 52, right: 14, top: 10, bottom: 42 };

  // scale: {min, max, log, ticks, label, shown}; from..to: pixels.
  const along = ({ min, max, log }, from, to) => {
    const of = log ? Math.log10 : Number;
    return (value) => from + ((of(value) - of(min)) / (of(max) - of(min))) * (to - from);
  };

  // Draws both axes with their grid and returns the places of values: {x, y, left, right, top, bottom}.
  play.axes = (svg, width, height, xs, ys) => {
    const [left, right, top, bottom] = [EDGE.left, width - EDGE.right, EDGE.top, height - EDGE.bottom];
    const x = along(xs, left, right);
    const y = along(ys, bottom, top);
    const grid = element("g", { class: "play-grid" });
    for (const tick of xs.ticks) {
      grid.append(element("line", { x1: x(tick), x2: x(tick), y1: top, y2: bottom }));
      grid.append(element("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, String(tick)));
    }
    for (const tick of ys.ticks) {
      grid.append(element("line", { x1: left, x2: right, y1: y(tick), y2: y(tick) }));
      grid.append(element("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    const middle = (top + bottom) / 2;
    grid.append(element("text", { x: (left + right) / 2, y: bottom + 35, "text-anchor": "middle" }, xs.label));
    const turned = { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` };
    grid.append(element("text", turned, ys.label));
    svg.append(grid);
    return { x, y, left, right, top, bottom };
  };

  // A line through points [x, y] in pixels.
  play.line = (points, attributes) =>
    element("path", { d: `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`, ...attributes });

  // From dark to light, so that the order survives without colour.
  const SHADES = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [201, 183, 102], [254, 232, 56]];
  const shade = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (SHADES.length - 1);
    const low = Math.min(Math.floor(place), SHADES.length - 2);
    return SHADES[low].map((channel, k) => channel + (SHADES[low + 1][k] - channel) * (place - low));
  };
  play.colour = (share) => `rgb(${shade(share).map(Math.round).join()})`;

  // A picture of values[row][column], the first row at the bottom, low at `min` and high at `max`; as a data URL.
  play.map = (values, min, max) => {
    const [rows, columns] = [values.length, values[0].length];
    const canvas = element("canvas", { width: columns, height: rows });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    values.forEach((row, r) =>
      row.forEach((value, c) =>
        pixels.data.set([...shade((value - min) / (max - min)), 255], 4 * ((rows - 1 - r) * columns + c))
      )
    );
    context.putImageData(pixels, 0, 0);
    return canvas.toDataURL();
  };

  // The pixels of a square PNG file in base64, when they are there.
  play.picture = async (file, side) => {
    const image = new Image();
    image.src = `data:image/png;base64,${file}`;
    await image.decode();
    const context = element("canvas", { width: side, height: side }).getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, side, side);
  };

  // Where values[row][column] crosses `level`, as pieces of line in columns and rows (marching squares).
  play.contour = (values, level) => {
    const pieces = [];
    for (let r = 0; r + 1 < values.length; r += 1) {
      for (let c = 0; c + 1 < values[r].length; c += 1) {
        const corners = [[c, r], [c + 1, r], [c + 1, r + 1], [c, r + 1]];
        const found = [];
        corners.forEach(([x, y], k) => {
          const [u, v] = corners[(k + 1) % 4];
          const [a, b] = [values[y][x] - level, values[v][u] - level];
          if (a < 0 !== b < 0) found.push([x + ((u - x) * a) / (a - b), y + ((v - y) * a) / (a - b)]);
        });
        for (let k = 0; k + 1 < found.length; k += 2) pieces.push([found[k], found[k + 1]]);
      }
    }
    return pieces;
  };
})();
