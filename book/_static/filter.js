// The results page: shows the blocks and rows that fit all choices. The choices stand in the address (tables.js).
// Without a script all of them are shown.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  const blocks = [...document.querySelectorAll("section.result")];
  const OF_BLOCK = ["chapter", "scale", "dataset"];
  const OF_ROW = ["order", "name"];

  function rowFits(row) {
    const order = form.elements.order.value;
    const name = form.elements.name.value.trim().toLowerCase();
    return (!order || row.querySelector(`.order-${order}`)) && row.cells[0].innerText.toLowerCase().includes(name);
  }

  function apply() {
    let shown = 0;
    const ofRow = OF_ROW.some((name) => form.elements[name].value);
    for (const block of blocks) {
      let fits = OF_BLOCK.every((name) => !form.elements[name].value || form.elements[name].value === block.dataset[name]);
      if (fits) {
        block.hidden = false; // innerText needs rows that are shown
        const rows = [...block.querySelectorAll("tbody tr:not(.group)")];
        for (const row of rows) row.hidden = false;
        if (ofRow) {
          for (const row of rows) row.hidden = !rowFits(row);
          for (const body of block.querySelectorAll("tbody")) {
            body.hidden = ![...body.querySelectorAll("tr:not(.group)")].some((row) => !row.hidden);
          }
          fits = rows.some((row) => !row.hidden);
        } else for (const body of block.querySelectorAll("tbody")) body.hidden = false;
      }
      block.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${blocks.length} tables`;
  }

  const fields = [...OF_BLOCK, ...OF_ROW];
  const state = window.addressState.read();
  for (const name of fields) if (state.has(name)) form.elements[name].value = state.get(name);
  form.addEventListener("input", () => {
    apply();
    window.addressState.write(Object.fromEntries(fields.map((name) => [name, form.elements[name].value])));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
});
