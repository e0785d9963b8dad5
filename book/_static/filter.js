// The results page: shows the blocks that fit all three choices. Without a script all of them are shown.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  const blocks = [...document.querySelectorAll("section.result")];
  const apply = () => {
    let shown = 0;
    for (const block of blocks) {
      const fits = ["chapter", "scale", "dataset"].every(
        (name) => !form.elements[name].value || form.elements[name].value === block.dataset[name]
      );
      block.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${blocks.length} tables`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
});
