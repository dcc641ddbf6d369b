// Tables of class "sortable": a click on a head sorts by that column, again reverses; empty cells stay at the end.
// A search box before the table hides the rows that do not contain all of its words.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    const numeric = head.classList.contains("number");
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = (row) => (numeric ? parseFloat(row.cells[column].dataset.value) : row.cells[column].textContent);
      const lost = (value) => (numeric ? Number.isNaN(value) : value === "");
      const order = (a, b) => {
        const x = key(a), y = key(b);
        if (lost(x) || lost(y)) return lost(x) - lost(y);
        const sign = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
        return rising ? sign : -sign;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
  const tools = table.closest(".scroll").previousElementSibling;
  const box = tools && tools.querySelector("input[type=search]");
  if (!box) continue;
  tools.hidden = false;
  const told = tools.querySelector("output");
  const texts = new Map([...body.rows].map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of texts) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    told.value = `${shown} of ${texts.size}`;
  };
  box.addEventListener("input", filter);
  filter();
}
