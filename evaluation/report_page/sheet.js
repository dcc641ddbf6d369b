// Contact sheets: pointing at a cell, or the arrow keys, puts that view of all sheets side by side above them, enlarged.
"use strict";
for (const box of document.querySelectorAll(".sheets")) {
  const columns = Number(box.dataset.columns);
  const views = JSON.parse(box.dataset.views); // in the order of the cells: a line of text, or null for an empty cell
  const rows = Math.ceil(views.length / columns);
  const panels = [...box.querySelectorAll(".cells")];
  const glass = box.closest("article").querySelector(".glass");
  const line = document.createElement("p");
  const panes = panels.map((panel) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    caption.textContent = panel.querySelector("img").dataset.name;
    figure.append(canvas, caption);
    const cursor = document.createElement("i");
    cursor.className = "cursor";
    cursor.style.width = `${100 / columns}%`;
    cursor.style.height = `${100 / rows}%`;
    panel.append(cursor);
    return { image: panel.querySelector("img"), canvas, figure, cursor };
  });
  glass.append(line, ...panes.map((pane) => pane.figure));
  let chosen = Number(box.dataset.first);
  line.textContent = views[chosen];
  glass.hidden = false;

  async function choose(cell) {
    if (cell < 0 || cell >= views.length || views[cell] === null) return;
    chosen = cell;
    line.textContent = views[cell];
    const column = cell % columns, row = Math.floor(cell / columns);
    for (const { image, canvas, cursor } of panes) {
      cursor.style.left = `${(100 * column) / columns}%`;
      cursor.style.top = `${(100 * row) / rows}%`;
      await image.decode();
      if (chosen !== cell) return; // pointed elsewhere meanwhile
      const size = image.naturalWidth / columns;
      canvas.width = canvas.height = size;
      canvas.getContext("2d").drawImage(image, column * size, row * size, size, size, 0, 0, size, size);
    }
  }

  const point = (event) => {
    const area = event.currentTarget.getBoundingClientRect();
    const column = Math.min(columns - 1, Math.floor(((event.clientX - area.left) / area.width) * columns));
    const row = Math.min(rows - 1, Math.floor(((event.clientY - area.top) / area.height) * rows));
    if (row * columns + column !== chosen) choose(row * columns + column);
  };
  for (const panel of panels) {
    panel.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(event));
    panel.addEventListener("click", point);
  }
  box.tabIndex = 0;
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(chosen + step);
  });
  // Decoding pictures that are far away would only slow the page down.
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    choose(chosen);
  }, { rootMargin: "300px" });
  seen.observe(box);
  seen.observe(glass);
}
