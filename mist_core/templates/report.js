// Tables of class "sortable" get a button in each of their lowest headings. Without this script the
// page has the same contents, in the order in which it was written.
(() => {
  "use strict";

  const collator = new Intl.Collator("en", { numeric: true });

  function valueOf(row, column, kind) {
    const cell = row.cells[column];
    const text = (cell.dataset.value ?? cell.textContent).trim();
    if (kind === "text") return text;
    return text === "" ? NaN : Number(text.replace("inf", "Infinity"));
  }

  // Cells without a value stay last in both directions.
  function compare(a, b, kind, sign) {
    const missing = (value) => value === "" || Number.isNaN(value);
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return sign * (kind === "text" ? collator.compare(a, b) : a - b);
  }

  function sort(table, heading) {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const { column, sort: kind } = heading.dataset;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [valueOf(row, Number(column), kind), row]);
    rows.sort((a, b) => compare(a[0], b[0], kind, rising ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.querySelectorAll("th[data-column]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, heading));
    }
  }
})();
