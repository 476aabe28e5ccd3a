// The last step of Sphinx's search, so that it works from a disk: one hit a page, chapters before the reference, and a
// line of the text that search-texts.js brings along. Greek letters are sought under their names as well.
Search.query = (query) => {
  const named = query.replace(/[\u0370-\u03ff]/g, (sign) => KNOWN.greek[sign.toLowerCase()] ?? sign);
  const words = new Set();
  const hits = [...new Set([query, named])].flatMap((asked) => {
    const [said, terms, not, shown, objects] = Search._parseQuery(asked);
    shown.forEach((word) => words.add(word));
    return Search._performSearch(said, terms, not, shown, objects).reverse();
  });
  words.add(query.trim().toLowerCase());

  const last = query.trim().toLowerCase().split(".").pop();
  const defines = ([, title, , kind]) => kind && !kind.includes("module") && title.toLowerCase().split(".").pop() === last;
  const rank = (hit) => (defines(hit) ? 0 : KNOWN.chapters.includes(hit[0]) ? 1 : 2);
  const pages = new Map();
  for (const hit of hits.sort((a, b) => rank(a) - rank(b) || b[4] - a[4]))
    if (!pages.has(hit[0])) pages.set(hit[0], hit);

  for (const hit of pages.values()) Search.output.append(shownHit(hit, [...words]));
  _finishSearch(pages.size);
};

function shownHit([page, title, anchor, kind], words) {
  const item = document.createElement("li");
  const link = item.appendChild(document.createElement("a"));
  link.href = `${page}.html${anchor}`;
  link.innerHTML = title.replace(" > ", " › ");
  if (kind) item.append(` (${kind})`);

  const text = KNOWN.texts[page] ?? "";
  const lower = text.toLowerCase();
  // the longest word that stands there says most
  const word = words.sort((a, b) => b.length - a.length).find((word) => lower.includes(word)) ?? "";
  const at = word ? lower.indexOf(word) : 0;
  const start = Math.max(0, text.lastIndexOf(" ", Math.max(0, at - 70)));
  const end = at + word.length;
  const line = item.appendChild(document.createElement("p"));
  line.className = "context";
  const found = document.createElement("mark");
  found.textContent = text.slice(at, end);
  line.append(start ? "… " : "", text.slice(start, at), found, text.slice(end, end + 110), " …");
  return item;
}
