// What is wider than the page can be scrolled without a mouse, too: it is a stop of the tabulator key.
"use strict";

window.addEventListener("load", async () => {
  const wide = ".bd-article :is(mjx-container, .output, .cell_output, pre, .scroll, .pst-scrollable-table-container)";
  function reach() {
    for (const part of document.querySelectorAll(wide)) {
      if (part.scrollWidth > part.clientWidth + 1 && !part.hasAttribute("tabindex")) part.tabIndex = 0;
    }
  }
  document.addEventListener("toggle", reach, true); // what is folded has no width
  if (window.MathJax) await window.MathJax.startup.promise;
  reach();
});
