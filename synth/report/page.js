"use strict";
// What the page does: sort a table by a heading, unpack evidence and copy the formula to where it is opened, and open
// what a link leads to.
for (const button of document.querySelectorAll("button[data-sort]")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, table = heading.closest("table"), body = table.tBodies[0];
    const column = [...heading.parentElement.children].indexOf(heading), numeric = button.dataset.sort === "number";
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    const value = (row) => {
      const cell = row.children[column], text = cell.dataset.value ?? cell.textContent.trim();
      return numeric ? (text === "" ? NaN : Number(text)) : text;
    };
    const order = (a, b) => {
      if (!numeric) return rising ? a.localeCompare(b) : b.localeCompare(a);
      if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b); // what has no figure comes last either way
      return rising ? a - b : b - a;
    };
    const rows = [...body.rows].map((row) => [value(row), row]);
    body.append(...rows.sort((a, b) => order(a[0], b[0])).map((pair) => pair[1]));
    for (const other of heading.parentElement.children) if (other.ariaSort) other.ariaSort = "none";
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  });
}
function made(name, content, className = "") {
  const element = document.createElement(name);
  element.className = className;
  element.append(...content);
  return element;
}
const packs = new Map();
function unpack(id) {
  if (!packs.has(id)) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    packs.set(id, new Response(stream).json());
  }
  return packs.get(id);
}
for (const obligation of document.querySelectorAll("details[data-pack]")) {
  obligation.addEventListener("toggle", async () => {
    const texts = (await unpack(obligation.dataset.pack))[obligation.dataset.of];
    obligation.querySelector(".packed").replaceWith(...texts.map(([name, kind, length, text]) => {
      const cut = text.length < length ? `, the first ${text.length} here, the whole in the run's own record` : "";
      const about = made("span", [`${kind}, ${length} characters${cut}`], "quiet");
      const block = made("pre", [made("code", [text])], "code text");
      block.tabIndex = 0;
      block.ariaLabel = name;
      return made("details", [made("summary", [`${name} `, about]), block], "item");
    }));
  }, { once: true });
}
for (const place of document.querySelectorAll("details[data-copy]")) {
  place.addEventListener("toggle", () => {
    const copy = document.getElementById(place.dataset.copy).cloneNode(true);
    copy.removeAttribute("id");
    place.lastElementChild.replaceWith(copy);
  }, { once: true });
}
for (const block of document.querySelectorAll("pre[data-first]")) {
  block.style.setProperty("--first", Number(block.dataset.first) - 1);
}
function open() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  target.scrollIntoView();
  if (target.tagName === "DETAILS") target.firstElementChild.focus({ preventScroll: true });
}
addEventListener("hashchange", open);
open();
