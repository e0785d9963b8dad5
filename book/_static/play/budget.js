// A slider for the budget: an image, its change, the adversarial image, and the answers of six networks.
(() => {
  const { element } = play;
  const SIDE = 32;
  const ENLARGED = 10;

  const change = (adversarial, clean) => {
    const shown = new ImageData(SIDE, SIDE);
    shown.data.forEach((_, k) => {
      const grey = 128 + ENLARGED * (adversarial.data[k] - clean.data[k]);
      shown.data[k] = k % 4 === 3 ? 255 : grey;
    });
    return shown;
  };

  play.widgets.budget = (frame, data) => {
    const { budgets, classes, networks, images } = data;
    const name = (image) => classes[image.label];
    const slider = frame.slider("Budget", {
      min: 0, max: budgets.length - 1, step: 1, value: budgets.indexOf(4), shown: (k) => `${budgets[k]}/255`,
    });
    const which = frame.choice("Image", images.map((image, k) => [k, name(image)]));

    const shown = ["clean", `change × ${ENLARGED}`, "adversarial"].map((title) => {
      const canvas = element("canvas", { width: SIDE, height: SIDE, role: "img" });
      return { title, canvas, box: element("div", {}, canvas, element("span", {}, title)) };
    });
    const rows = networks.map((network) => {
      const answer = element("td", {});
      const bar = element("div", { class: "play-bar-of" });
      const text = network === data.surrogate ? `${network} (surrogate)` : network;
      const row = element("tr", {}, element("th", { scope: "row" }, text), answer, element("td", {}, bar));
      return { answer, bar, row };
    });
    const heads = ["network", "answer", "how sure"].map((text) => element("th", { scope: "col" }, text));
    const table = element(
      "table", { class: "play-answers" },
      element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows.map(({ row }) => row))
    );
    frame.picture.append(element("div", { class: "play-trio" }, ...shown.map(({ box }) => box)), table);
    const loaded = images.map((image) => Promise.all(image.files.map((file) => play.picture(file, SIDE))));

    frame.draw = async () => {
      const [k, budget] = [Number(which.value), Number(slider.value)];
      const image = images[k];
      const pictures = await loaded[k];
      if (Number(which.value) !== k || Number(slider.value) !== budget) return; // moved on while it loaded
      const drawn = [pictures[0], change(pictures[budget], pictures[0]), pictures[budget]];
      shown.forEach(({ title, canvas }, place) => {
        canvas.getContext("2d").putImageData(drawn[place], 0, 0);
        canvas.setAttribute("aria-label", `${title}: ${name(image)} at ${budgets[budget]}/255`);
      });
      const answers = image.answers[budget];
      rows.forEach(({ answer, bar, row }, place) => {
        const [found, sure] = answers[place];
        const wrong = found !== image.label;
        answer.textContent = `${wrong ? "✗" : "✓"} ${classes[found]}, ${sure} %`;
        row.className = wrong ? "play-wrong" : "";
        bar.style.width = `${sure}%`;
      });
      const wrong = answers.filter(([found]) => found !== image.label).length;
      frame.say(
        `${name(image)} at ${budgets[budget]}/255: ${wrong} of ${networks.length} networks are wrong. ` +
          `${data.attack} on ${data.surrogate}, ${data.steps} steps, ${data.dataset}.`
      );
    };
  };
})();
