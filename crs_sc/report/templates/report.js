document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = table.querySelectorAll("th");
  heads.forEach(function (head, column) {
    head.querySelector("button").addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var number = head.classList.contains("number");
      var body = table.tBodies[0];
      var value = function (row) {
        var cell = row.cells[column];
        if (!number) { return cell.textContent.toLowerCase(); }
        return cell.dataset.v === "" ? NaN : parseFloat(cell.dataset.v);
      };
      Array.from(body.rows).sort(function (a, b) {
        var x = value(a), y = value(b);
        if (number) {
          if (isNaN(x) || isNaN(y)) { return isNaN(x) - isNaN(y); }
          return down ? y - x : x - y;
        }
        return down ? y.localeCompare(x) : x.localeCompare(y);
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
