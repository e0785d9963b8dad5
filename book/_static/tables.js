// Tables that can be sorted: a click on a head sorts each group of rows by that column. What is sorted stands in the
// address, behind "#", so that a link gives the same view. Without a script the tables are as they were written.
"use strict";

window.addressState = {
  read: () => new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : ""),
  write(changes) {
    const state = this.read();
    for (const [name, value] of Object.entries(changes)) {
      if (value) state.set(name, value);
      else state.delete(name);
    }
    const text = state.toString();
    history.replaceState(null, "", text ? `#?${text}` : location.pathname + location.search);
  },
};

document.addEventListener("DOMContentLoaded", () => {
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.innerText.trim().toLowerCase() : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

  function sort(table, column, down) {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
      rows.sort((a, b) => (down ? -1 : 1) * compare(value(a, column), value(b, column)));
      body.append(...rows);
    }
    [...table.tHead.rows[0].cells].forEach((head, k) => {
      if (k === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const row = table.querySelector("tbody tr:not(.group)");
        const numbers = row && typeof value(row, column) === "number";
        const order = head.getAttribute("aria-sort");
        const down = order === null ? numbers : order === "ascending";
        sort(table, column, down);
        window.addressState.write({ [table.dataset.name]: `${column}${down ? "d" : "u"}` });
      });
    });
    const wanted = /^(\d+)([du])$/.exec(window.addressState.read().get(table.dataset.name) || "");
    if (wanted && Number(wanted[1]) < table.tHead.rows[0].cells.length) {
      const folded = table.closest("details");
      if (folded) folded.open = true;
      sort(table, Number(wanted[1]), wanted[2] === "d");
    }
  }
});
