// The frame of a thing to drag: controls, a picture, and a sentence that says what the picture shows. A page without a
// script, and a page on paper, keep the still picture. Nothing moves unless a reader moves it.
globalThis.play ??= {};
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const DRAWN = ["svg", "g", "path", "circle", "line", "rect", "text", "image", "title"];
  let made = 0;

  const element = (name, attributes = {}, ...children) => {
    const node = DRAWN.includes(name) ? document.createElementNS(NS, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  class Frame {
    constructor(figure) {
      this.controls = element("div", { class: "play-controls", role: "group", "aria-label": "Controls" });
      this.picture = element("div", { class: "play-picture" });
      this.told = element("p", { class: "play-told", role: "status" });
      this.still = figure.querySelector(".play-still");
      this.live = element("div", { class: "play-live" }, this.controls, this.picture, this.told);
      this.draw = () => {};
      figure.insertBefore(this.live, this.still);
    }

    // Draw once before the next frame, however many inputs have changed.
    redraw() {
      this.waiting ??= requestAnimationFrame(() => {
        this.waiting = undefined;
        this.draw();
      });
    }

    labelled(text, input, ...beside) {
      input.id = `play-input-${(made += 1)}`;
      this.controls.append(element("div", {}, element("label", { for: input.id }, text), input, ...beside));
      input.addEventListener("input", () => this.redraw());
      return input;
    }

    // The number of a slider. shown: what stands beside it and is read aloud.
    slider(text, { min, max, step, value, shown = String }) {
      const output = element("output", { "aria-hidden": "true" });
      const input = this.labelled(text, element("input", { type: "range", min, max, step, value }), output);
      const tell = () => {
        output.textContent = shown(Number(input.value));
        input.setAttribute("aria-valuetext", output.textContent);
      };
      input.addEventListener("input", tell);
      tell();
      return input;
    }

    // A list of [value, text]; `offer` changes it.
    choice(text, options, value = options[0][0]) {
      const input = this.labelled(text, element("select"));
      this.offer(input, options, value);
      return input;
    }

    offer(input, options, value) {
      input.replaceChildren(...options.map(([own, text]) => element("option", { value: own }, text)));
      input.value = value;
      if (input.selectedIndex < 0) input.selectedIndex = 0; // no longer on offer
    }

    check(text, checked = false) {
      const input = this.labelled(text, element("input", { type: "checkbox" }));
      input.checked = checked;
      return input;
    }

    // An empty drawing as wide as the page leaves room for, so that its text keeps its size.
    svg(width, height, label) {
      const svg = element("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
      this.picture.replaceChildren(svg);
      return svg;
    }

    get width() {
      return Math.max(240, Math.floor(this.picture.clientWidth));
    }

    say(text) {
      if (this.told.textContent !== text) this.told.textContent = text;
    }
  }

  const start = () => {
    for (const figure of document.querySelectorAll("figure[data-play]")) {
      const frame = new Frame(figure);
      play.widgets[figure.dataset.play](frame, play.data[figure.dataset.play]);
      figure.classList.add("play-started");
      let last = 0;
      new ResizeObserver(() => {
        if (frame.width !== last) frame.redraw();
        last = frame.width;
      }).observe(frame.picture);
    }
  };

  Object.assign(play, { element, widgets: {}, data: {} });
  document.addEventListener("DOMContentLoaded", start);
})();
