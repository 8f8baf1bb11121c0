// What is wider than the page can be scrolled by the keyboard too: equations, and printed columns.
const reach = () =>
  document.querySelectorAll("div.math mjx-container, pre.columns").forEach((each) => {
    each.toggleAttribute("tabindex", each.scrollWidth > each.clientWidth);
    if (each.hasAttribute("tabindex")) each.tabIndex = 0;
  });
document.addEventListener("DOMContentLoaded", () => {
  // Printed columns are scrolled, since a line that breaks is no row any more; printed sentences break.
  document.querySelectorAll(".bd-article .output.stream pre").forEach((each) => {
    const rows = each.textContent.split("\n").filter((line) => /\S {2,}\S/.test(line));
    each.classList.toggle("columns", rows.length > 1);
  });
  reach();
  window.MathJax?.startup?.promise?.then(reach);
  addEventListener("resize", reach);
});

// On a phone a tap makes a picture as large as on a desk, to be scrolled; another one shows it whole again.
document.addEventListener("click", (event) => {
  const picture = event.target.matches(".bd-article img:not(.right > img, .wrong > img)");
  if (!picture || !matchMedia("(max-width: 600px)").matches) return;
  event.preventDefault();  // Pictures are links to themselves.
  event.target.closest("figure, p, div").classList.toggle("large");
});
