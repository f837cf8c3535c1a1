"use strict";
// Turns the headers of sortable tables into buttons, and unfolds what is folded before printing.

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const numeric = header.dataset.sort === "number";
      const now = header.getAttribute("aria-sort");
      const down = now ? now === "ascending" : numeric; // numbers: the largest first
      const sign = down ? -1 : 1;
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        if (!numeric) return value(a).localeCompare(value(b), "en", { numeric: true });
        const [x, y] = [Number(value(a)), Number(value(b))];
        return x === y ? 0 : x < y ? -1 : 1;
      };
      body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => {
  folded.forEach((details) => { details.open = false; });
});
