// The loss around the weights of SGD, SAM and CR-SAM: three maps with a ball, and the worst loss in it by its radius.
(() => {
  const { element } = play;
  const two = (value) => value.toFixed(2);
  const DASHES = ["", "7 4", "2 3"];
  const HEIGHT = 260;

  play.widgets.surfaces = (frame, { dataset, n, axis, surfaces }) => {
    const { worst } = play.surfaces;
    const radius = frame.slider("radius of the ball", { min: 0, max: 1, step: 0.05, value: 0.5, shown: two });
    const every = surfaces.flatMap(({ loss }) => loss.flat());
    const [lowest, highest] = [Math.min(...every), Math.max(...every)];
    // Losses differ by powers of ten: shades, contours and the axis are logarithmic.
    const logs = (loss) => loss.map((row) => row.map(Math.log10));
    const grounds = surfaces.map(({ loss }) => play.map(logs(loss), Math.log10(lowest), Math.log10(highest)));
    const levels = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].filter((level) => level > lowest && level < highest);
    const radii = [...Array(21).keys()].map((k) => k / 20);
    const profiles = surfaces.map(({ loss }) => radii.map((r) => worst(loss, axis, r).value));

    // One map, `side` wide, from `left`.
    const map = ({ optimizer, loss }, ground, left, side) => {
      const top = 20;
      const at = ([x, y]) => [left + ((x + 1) / 2) * side, top + ((1 - y) / 2) * side];
      const value = (k) => axis[0] + k * (axis[1] - axis[0]); // of a place between two points of the axis
      const text = (place) => at(place.map(value)).map((v) => v.toFixed(1)).join(" ");
      const pieces = levels.flatMap((level) => play.contour(loss, level));
      const d = pieces.map(([a, b]) => `M${text(a)}L${text(b)}`).join("");
      const [x, y] = at([0, 0]);
      const [u, v] = at(worst(loss, axis, Number(radius.value)).at);
      return [
        element("text", { x: left, y: 13, class: "play-name" }, optimizer),
        element("image", { x: left, y: top, width: side, height: side, href: ground, preserveAspectRatio: "none" }),
        element("path", { d, class: "play-contour" }),
        element("circle", { cx: x, cy: y, r: (radius.value * side) / 2, class: "play-box" }),
        element("circle", { cx: x, cy: y, r: 3, class: "play-dot" }),
        element("circle", { cx: u, cy: v, r: 5, class: "play-worst" }),
      ];
    };

    const curves = (width, top) => {
      const g = element("g", { transform: `translate(0 ${top})` });
      const xs = { min: 0, max: 1, ticks: [0, 0.25, 0.5, 0.75, 1], label: "radius (lengths of the weights)" };
      const ys = { min: 0.9 * lowest, max: 1.1 * highest, log: true, ticks: levels, label: "worst loss (nats)" };
      const { x, y, ...box } = play.axes(g, width, HEIGHT, xs, ys);
      const at = x(Number(radius.value));
      g.append(element("line", { x1: at, x2: at, y1: box.top, y2: box.bottom, class: "play-bar" }));
      profiles.forEach((profile, k) => {
        const points = profile.map((value, place) => [x(radii[place]), y(value)]);
        g.append(play.line(points, { class: "play-curve", "stroke-dasharray": DASHES[k] }));
        const row = box.top + 14 + 17 * k;
        const key = [[box.left + 10, row - 4], [box.left + 42, row - 4]];
        g.append(play.line(key, { class: "play-curve", "stroke-dasharray": DASHES[k] }));
        g.append(element("text", { x: box.left + 48, y: row }, surfaces[k].optimizer));
      });
      return g;
    };

    frame.draw = () => {
      const width = frame.width;
      const side = Math.min(220, (width - 2 * 12) / 3);
      const within = Number(radius.value);
      const found = surfaces.map(({ optimizer, loss }) => `${optimizer} ${two(worst(loss, axis, within).value)}`);
      const told = `Worst loss within ${two(within)}: ${found.join(", ")}.`;
      const length = (within * surfaces[0].length).toFixed(1);
      const svg = frame.svg(width, side + 30 + HEIGHT, `The loss around three networks' weights. ${told}`);
      surfaces.forEach((surface, k) => svg.append(...map(surface, grounds[k], k * (side + 12), side)));
      svg.append(curves(width, side + 30));
      frame.say(`${told} The radius is ${length} in L2. ${dataset}, ${n} test images, one network each.`);
    };
  };
})();
