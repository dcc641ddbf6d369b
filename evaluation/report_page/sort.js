// Click a column head of a .sortable table to sort by it, again to reverse. Empty cells stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell.classList.contains("number") ? parseFloat(cell.dataset.value) : cell.textContent;
      };
      const order = (a, b) => {
        const x = key(a), y = key(b);
        const lost = (value) => typeof value === "number" && Number.isNaN(value);
        if (lost(x) || lost(y)) return lost(x) - lost(y);
        return (x < y ? -1 : x > y ? 1 : 0) * (rising ? 1 : -1);
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(order));
    });
  });
}
