// The random numbers of advlib (`core/draws.py`), and what random erasure and input diversity do with them.
globalThis.play ??= {};
play.erasure = (() => {
  const GOLDEN = 0x9e3779b9;
  const STREAM = 16; // of the first transform of a chain

  const mix = (h) => {
    h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
    h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
    return h ^ (h >>> 16);
  };

  // `count` numbers in [0, 1) of an image at a step, in a copy.
  const uniform = ({ seed, index, step, copy, stream = STREAM }, count) => {
    const h = [index, step, copy, stream].reduce((word, next) => mix(word ^ next), mix(seed));
    return Array.from({ length: count }, (_, k) => (mix((h + Math.imul(k, GOLDEN)) | 0) >>> 8) * 2 ** -24);
  };

  // [height, width] in pixels of the rectangle that two uniform numbers give. aspect: a number, or "random".
  const rectangle = (h, w, uArea, uAspect, { s_h, aspect }) => {
    const most = aspect === "random" ? s_h : Math.min(s_h, (aspect * w) / h, h / (aspect * w));
    const share = most * uArea;
    let r = aspect;
    if (aspect === "random") {
      const limit = Math.log(h / (w * Math.max(share, 1e-12)));
      const lowest = -limit + 2 * Math.log(h / w);
      const low = Math.max(lowest, Math.log(0.3));
      const high = Math.min(limit, -Math.log(0.3));
      r = Math.exp(Math.min(Math.max(low + (high - low) * uAspect, lowest), limit));
    }
    const area = share * h * w;
    return [Math.sqrt(area * r), Math.sqrt(area / r)];
  };

  // Where copy `draw.copy` of an image is erased: {top, left, height, width}, or null where it is intact.
  const place = (h, w, draw, options) => {
    const u = uniform(draw, 5);
    if (draw.copy === 0 || u[4] >= options.p) return null;
    const [height, width] = rectangle(h, w, u[0], u[1], options);
    return { top: u[2] * (h - height), left: u[3] * (w - width), height, width };
  };

  // pixels: 3 h w numbers in [0, 1], channel by channel, as in a tensor (3, H, W); so is the answer.
  const erase = (pixels, h, w, draw, options) => {
    const hole = place(h, w, draw, options);
    if (!hole) return pixels;
    const noise = uniform({ ...draw, stream: STREAM + 1 }, 3 * h * w);
    return pixels.map((value, k) => {
      const [y, x] = [(Math.floor(k / w) % h) + 0.5, (k % w) + 0.5];
      const rows = y >= hole.top && y < hole.top + hole.height;
      return rows && x >= hole.left && x < hole.left + hole.width ? noise[k] : value;
    });
  };

  // Input diversity: the size of the image in the canvas, in image sides, and how far it is from its edges; or null.
  const layout = (draw, { p, scale }) => {
    const u = uniform(draw, 4);
    return u[0] < p ? { size: 1 + (scale - 1) * u[1], top: u[2], left: u[3] } : null;
  };

  const resize = (pixels, h, w, draw, { p, scale }) => {
    const found = layout(draw, { p, scale });
    if (!found) return pixels;
    const source = (side, at) => (pixel) =>
      ((pixel + 0.5) * scale - (scale - found.size) * at * side) / found.size - 0.5;
    const [row, column] = [source(h, found.top), source(w, found.left)];
    // The two nearest input pixels along one axis, with their weights; outside of the image there is none.
    const near = (place, side) =>
      [Math.floor(place), Math.floor(place) + 1].filter((k) => k >= 0 && k < side).map((k) => [k, 1 - Math.abs(place - k)]);
    return pixels.map((_, k) => {
      const channel = Math.floor(k / (h * w)) * h * w;
      const columns = near(column(k % w), w);
      return near(row(Math.floor(k / w) % h), h).reduce(
        (sum, [y, a]) => sum + columns.reduce((part, [x, b]) => part + a * b * pixels[channel + y * w + x], 0), 0
      );
    });
  };

  return { uniform, rectangle, place, erase, layout, resize };
})();
