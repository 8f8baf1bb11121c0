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

// On a phone a tap makes a picture as large as on a desk, to be scrolled; another one shows it whole again.
document.addEventListener("click", (event) => {
  if (!event.target.matches(".bd-article img") || !matchMedia("(max-width: 600px)").matches) return;
  event.preventDefault();  // Pictures are links to themselves.
  event.target.closest("figure, p, div").classList.toggle("large");
});
