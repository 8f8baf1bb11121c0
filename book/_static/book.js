// An equation that is wider than the page can be scrolled by the keyboard too.
const reach = () =>
  document.querySelectorAll("div.math mjx-container").forEach((each) => {
    each.toggleAttribute("tabindex", each.scrollWidth > each.clientWidth);
    if (each.hasAttribute("tabindex")) each.tabIndex = 0;
  });
document.addEventListener("DOMContentLoaded", () => {
  window.MathJax?.startup?.promise?.then(reach);
  addEventListener("resize", reach);
});
