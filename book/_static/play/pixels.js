// The two-pixel attack: contours of the loss, the box, the path, and the last look-ahead.
(() => {
  const { element } = play;
  const CELLS = 96;
  const two = (value) => value.toFixed(2);
  const place = (point) => `(${point.map(two).join(", ")})`;

  play.widgets.pixels = (frame, { hills, start, settings }) => {
    const { loss, path } = play.pixels;
    const slider = (text, min, max, step, value) => frame.slider(text, { min, max, step, value, shown: two });
    const inputs = {
      eps: slider("eps, half the box", 0.05, 0.5, 0.01, settings.eps),
      alpha: slider("alpha, a step", 0.005, 0.1, 0.005, settings.alpha),
      mu: slider("mu, memory", 0, 1.5, 0.05, settings.mu),
      sigma: slider("sigma, steps ahead", 0, 6, 0.25, settings.sigma),
      steps: frame.slider("T, steps so far", { min: 1, max: 20, step: 1, value: settings.steps }),
    };
    const project = frame.check("look-ahead stays in the box");
    const axis = [...Array(CELLS + 1).keys()].map((k) => k / CELLS);
    const values = axis.map((y) => axis.map((x) => loss([x, y], hills)));
    const highest = Math.max(...values.flat());
    const ground = play.map(values, 0, highest);
    const levels = [...Array(11).keys()].map((k) => ((k + 1) * highest) / 12);

    const contours = (x, y) => {
      const pieces = levels.flatMap((level) => play.contour(values, level));
      const text = ([c, r]) => `${x(c / CELLS).toFixed(1)} ${y(r / CELLS).toFixed(1)}`;
      return element("path", { d: pieces.map(([a, b]) => `M${text(a)}L${text(b)}`).join(""), class: "play-contour" });
    };

    frame.draw = () => {
      const chosen = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, Number(input.value)]));
      const steps = path(hills, { start, ...chosen, project: project.checked });
      const { ahead, from, to } = steps.at(-1);
      const side = Math.min(frame.width, 480);
      const svg = frame.svg(side, side, "The loss over two pixels, with the box and the path of the attack.");
      const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1];
      const scale = { min: 0, max: 1, ticks };
      const box = play.axes(svg, side, side, { ...scale, label: "first pixel" }, { ...scale, label: "second pixel" });
      const { x, y } = box;
      const pixels = (point) => [x(point[0]), y(point[1])];
      const area = { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top };
      svg.append(element("image", { ...area, href: ground, preserveAspectRatio: "none" }), contours(x, y));
      const [low, high] = [start.map((v) => Math.max(0, v - chosen.eps)), start.map((v) => Math.min(1, v + chosen.eps))];
      const [left, top, right, bottom] = [x(low[0]), y(high[1]), x(high[0]), y(low[1])];
      svg.append(element("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "play-box" }));
      // The look-ahead may leave the picture.
      const seen = element("svg", { ...area, viewBox: `${area.x} ${area.y} ${area.width} ${area.height}` });
      for (const step of steps) {
        const [cx, cy] = pixels(step.ahead);
        if (chosen.sigma) seen.append(element("circle", { cx, cy, r: 2.5, class: "play-ahead" }));
      }
      if (chosen.sigma) seen.append(play.line([pixels(from), pixels(ahead)], { class: "play-look" }));
      seen.append(play.line([start, ...steps.map((step) => step.to)].map(pixels), { class: "play-path" }));
      for (const point of [start, ...steps.map((step) => step.to)]) {
        const [cx, cy] = pixels(point);
        seen.append(element("circle", { cx, cy, r: point === start ? 6 : 4, class: "play-dot" }));
      }
      svg.append(seen);
      const plain = chosen.mu === 0 ? "I-FGSM" : "MI-FGSM";
      const rule = chosen.sigma === 0 ? plain : chosen.sigma === chosen.mu ? "NI-FGSM" : "EM-FGSM";
      const beyond = Math.max(...ahead.map((value, k) => Math.max(low[k] - value, value - high[k], 0)));
      const looked = beyond > 1e-9 ? `${two(beyond)} outside the box` : "inside the box";
      const look = chosen.sigma ? ` The last gradient was taken at ${place(ahead)}, ${looked}.` : "";
      frame.say(
        `${rule}: from ${place(start)}, loss ${two(loss(start, hills))}, to ${place(to)}, loss ${two(loss(to, hills))}.${look}`
      );
    };
  };
})();
