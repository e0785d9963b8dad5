// Erasure and resizing on a picture: the copies that one step of the attack would see.
(() => {
  const { element } = play;
  const COPIES = 5;
  const two = (value) => value.toFixed(2);

  play.widgets.erasure = (frame, { file, side, name, index, seed }) => {
    const { erase, resize, place, layout } = play.erasure;
    const share = (text, max, value) => frame.slider(text, { min: 0, max, step: 0.05, value, shown: two });
    const kind = frame.choice("Transform", [["erase", "random erasure"], ["resize", "input diversity"]]);
    const step = frame.slider("step of the attack", { min: 0, max: 29, step: 1, value: 0 });
    const p = share("p, how often", 1, 0.5);
    const s_h = share("s_h, largest share", 0.9, 0.4);
    const fixed = frame.check("aspect fixed at 0.3");
    const scale = frame.slider("size of the canvas", { min: 1, max: 2, step: 0.05, value: 1.1, shown: two });
    const canvases = [...Array(COPIES).keys()].map(() => element("canvas", { width: side, height: side, role: "img" }));
    const notes = canvases.map(() => element("span"));
    const boxes = canvases.map((canvas, k) => element("div", {}, canvas, notes[k]));
    frame.picture.append(element("div", { class: "play-copies" }, ...boxes));

    const told = { erase: (found) => (found ? `${found.height.toFixed(1)} × ${found.width.toFixed(1)}` : "intact") };
    told.resize = (found) => (found ? `image ${two(found.size)}` : "as it is");
    const picture = play.picture(file, side).then(({ data }) => {
      const plane = (channel) => Array.from({ length: side * side }, (_, k) => data[4 * k + channel] / 255);
      return [0, 1, 2].flatMap(plane);
    });

    const paint = (canvas, pixels) => {
      const image = new ImageData(side, side);
      const plane = side * side;
      for (let k = 0; k < plane; k += 1) {
        image.data.set([0, 1, 2].map((channel) => Math.round(255 * pixels[channel * plane + k])), 4 * k);
        image.data[4 * k + 3] = 255;
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
    };

    frame.draw = async () => {
      const pixels = await picture;
      const erasing = kind.value === "erase";
      for (const input of [s_h, fixed]) input.disabled = !erasing;
      scale.disabled = erasing;
      const options = { p: Number(p.value), s_h: Number(s_h.value), scale: Number(scale.value) };
      options.aspect = fixed.checked ? 0.3 : "random";
      let changed = 0;
      canvases.forEach((canvas, copy) => {
        const draw = { seed, index, step: Number(step.value), copy };
        const found = erasing ? place(side, side, draw, options) : layout(draw, options);
        changed += Boolean(found);
        paint(canvas, (erasing ? erase : resize)(pixels, side, side, draw, options));
        notes[copy].textContent = `${copy}: ${told[kind.value](found)}`;
        canvas.setAttribute("aria-label", `copy ${notes[copy].textContent}`);
      });
      const many = `Step ${step.value}: ${changed} of ${COPIES} copies`;
      frame.say(
        erasing
          ? `${many} have a hole, of ${two(options.s_h)} of the picture at most; copy 0 never has.`
          : `${many} are drawn smaller, on a canvas of ${two(options.scale)} sides, and all of it is seen.`
      );
    };
  };
})();
