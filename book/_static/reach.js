// What is wider than the page can be scrolled without a mouse, too: it is a stop of the tabulator key.
"use strict";

window.addEventListener("load", async () => {
  if (window.MathJax) await window.MathJax.startup.promise;
  for (const part of document.querySelectorAll(".bd-article :is(mjx-container, .output, pre, .pst-scrollable-table-container)")) {
    if (part.scrollWidth > part.clientWidth + 1 && !part.hasAttribute("tabindex")) part.tabIndex = 0;
  }
});
