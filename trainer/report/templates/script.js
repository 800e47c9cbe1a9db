// Tables: a click on a heading sorts, a word in the field above filters.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.ariaSort ? heading.ariaSort === "ascending" : heading.classList.contains("number");
      headings.forEach((other) => (other.ariaSort = null));
      heading.ariaSort = down ? "descending" : "ascending";
      const key = (row) => row.cells[column].textContent.replaceAll(",", "");
      const compare = heading.classList.contains("number")
        ? (a, b) => (isNaN(parseFloat(a)) - isNaN(parseFloat(b))) || (down ? -1 : 1) * (parseFloat(a) - parseFloat(b))
        : (a, b) => (down ? -1 : 1) * a.localeCompare(b, undefined, { numeric: true });
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]).sort((a, b) => compare(a[0], b[0]));
      table.tBodies[0].append(...rows.map((row) => row[1]));
    });
  });
}
for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
  const count = document.getElementById(field.dataset.filters + "-count");
  field.addEventListener("input", () => {
    const word = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(word);
    count.textContent = word && rows.filter((row) => !row.hidden).length + " of " + rows.length;
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
