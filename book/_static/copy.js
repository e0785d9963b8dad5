// A button on every block of code that copies it as it is, without the line breaks of a narrow page.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  async function copy(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const field = document.createElement("textarea"); // a page from file:// or http has no clipboard of its own
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }

  for (const block of document.querySelectorAll(".bd-article div.highlight")) {
    if (block.closest(".cell_output")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "copy";
    button.addEventListener("click", async () => {
      await copy(block.querySelector("pre").textContent.replace(/\n$/, ""));
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
    block.append(button);
  }
});
