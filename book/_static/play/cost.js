// Success against cost: every attack of appendix A4 as a point, the front joined, one attack told in full.
(() => {
  const { element } = play;
  const HEIGHT = 380;
  const rounded = (value) => value.toFixed(1);
  const signed = (value) => (value > 0 ? "+" : "") + rounded(value);

  const told = (point, front) => {
    const parts = [
      `${point.attack} (${point.branch}): ${rounded(point.value)} % of ${point.n} images, ` +
        `95 % interval ${rounded(point.low)} to ${rounded(point.high)}, ` +
        `at ${point.passes} passes and ${point.ms} ms an image.`,
    ];
    if (point.against) {
      const clear = point.clear ? "clear" : "not clear";
      const interval = `95 % interval ${signed(point.from)} to ${signed(point.to)}`;
      parts.push(`Beside ${point.against}: ${signed(point.points)} points, ${interval}, ${clear}.`);
    }
    if (front.includes(point.attack)) parts.push("It is on the front: nothing cheaper reaches as much.");
    return parts.join(" ");
  };

  play.widgets.cost = (frame, data) => {
    const names = Object.keys(data.panels);
    const unique = (part) => [...new Set(names.map((name) => name.split(", ")[part]))];
    const kind = frame.choice("Targets", unique(0).map((name) => [name, name]));
    const budget = frame.choice("Budget", unique(1).map((eps) => [eps, `${eps}/255`]));
    const panel = () => data.panels[`${kind.value}, ${budget.value}`];
    const byCost = () => [...panel().points].sort((a, b) => a.passes - b.passes || b.value - a.value);
    const offered = () => byCost().map((p) => [p.attack, `${p.attack}, ${p.passes} passes`]);
    const attack = frame.choice("Attack", offered(), "MI-FGSM");
    for (const input of [kind, budget]) {
      input.addEventListener("input", () => frame.offer(attack, offered(), attack.value));
    }
    const costs = names.flatMap((name) => data.panels[name].points.map((point) => point.passes));

    frame.draw = () => {
      const { points, front } = panel();
      const top = Math.min(100, Math.ceil((Math.max(...points.map((p) => p.high)) + 2) / 10) * 10);
      const stride = top > 50 ? 20 : top > 20 ? 10 : 5;
      const ticks = [0, 1, 2, 3, 4, 5].map((k) => k * stride).filter((tick) => tick <= top);
      const many =
        `${points.length} attacks on ${kind.value} targets at ${budget.value}/255, ` +
        `${data.dataset}, ${data.scale} scale`;
      const svg = frame.svg(frame.width, HEIGHT, `Success against passes per image: ${many}.`);
      const [xs, ys] = [
        { min: 0.8, max: 1.4 * Math.max(...costs), log: true, ticks: [1, 10, 100], label: "passes per image" },
        { min: 0, max: top, ticks, label: "black-box success (%)" },
      ];
      const { x, y, right } = play.axes(svg, frame.width, HEIGHT, xs, ys);
      const placed = byCost().map((point) => ({ point, at: [x(point.passes), y(point.value)] }));
      const steps = placed.filter(({ point }) => front.includes(point.attack));
      const corners = steps.flatMap(({ at }, k) => (k ? [[at[0], steps[k - 1].at[1]], at] : [at]));
      svg.append(play.line([...corners, [right, corners.at(-1)[1]]], { class: "play-front" }));
      const pick = (name) => {
        attack.value = name;
        frame.redraw();
      };
      const chosen = []; // drawn last, on top
      for (const { point, at } of placed) {
        const on = point.attack === attack.value;
        const look = (front.includes(point.attack) ? "play-point play-best" : "play-point") + (on ? " play-on" : "");
        const dot = element("circle", { cx: at[0], cy: at[1], r: on ? 7 : 5, class: look });
        if (!on) svg.append(dot);
        else chosen.push({ point, at, dot });
      }
      for (const { point, at, dot } of chosen) {
        svg.append(element("line", { x1: at[0], x2: at[0], y1: y(point.low), y2: y(point.high), class: "play-bar" }), dot);
        const left = at[0] < frame.width / 2;
        const text = { x: at[0] + (left ? 11 : -11), y: at[1] - 9, "text-anchor": left ? "start" : "end" };
        svg.append(element("text", { ...text, class: "play-name" }, point.attack));
        frame.say(told(point, front));
      }
      // The nearest point within a finger's width.
      const near = (event) => {
        const box = svg.getBoundingClientRect();
        const away = ({ at }) => Math.hypot(event.clientX - box.left - at[0], event.clientY - box.top - at[1]);
        const nearest = placed.reduce((best, one) => (away(one) < away(best) ? one : best));
        if (away(nearest) < 22 && nearest.point.attack !== attack.value) pick(nearest.point.attack);
      };
      svg.addEventListener("pointermove", near);
      svg.addEventListener("pointerdown", near);
    };
  };
})();
