// The report's table of claims: sorted by a click on a head, searched by words, filtered by the values of some columns.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector(".all-claims table");
  if (!table || !window.simpleDatatables) return;
  const heads = [...table.querySelectorAll("thead tr:last-child > *")].map((head) => head.textContent.trim());
  const kinds = ["holds", "in part", "open", "fails", "run in part", "not run"];
  const value = (name, text) => (name === "Verdict" ? kinds.find((kind) => text.includes(kind)) : text.trim());
  const rows = [...table.querySelectorAll("tbody tr")];
  const bar = document.createElement("div");
  bar.className = "filters";
  const filters = ["Whose", "Chapter", "Scale", "Verdict"].map((name) => {
    const column = heads.indexOf(name);
    const select = document.createElement("select");
    const found = new Set(rows.map((row) => value(name, row.children[column].textContent)));
    select.append(new Option("all", ""), ...[...found].map((each) => new Option(each)));
    const label = document.createElement("label");
    label.append(`${name} `, select);
    bar.append(label);
    return { column, select };
  });
  const count = document.createElement("output");
  bar.append(count);
  table.closest(".all-claims").prepend(bar);
  const labels = { placeholder: "Search the claims", searchTitle: "Search the claims", noResults: "No claim is like this" };
  const shown = new simpleDatatables.DataTable(table, { paging: false, labels });
  const input = shown.wrapperDOM.querySelector("input");
  const say = () => (count.textContent = `${shown.wrapperDOM.querySelectorAll("tbody tr td:nth-child(2)").length} of ${rows.length} claims`);
  const apply = () => {
    const wanted = filters.filter(({ select }) => select.value);
    const queries = wanted.map(({ column, select }) => ({ terms: [select.value], columns: [column] }));
    if (input.value) queries.push({ terms: [input.value], columns: undefined });
    shown.multiSearch(queries);
    say();
  };
  filters.forEach(({ select }) => select.addEventListener("change", apply));
  input.addEventListener("input", (event) => { event.stopPropagation(); apply(); }, true);
  say();
});
