// Paths through the book: a reader follows one, and each of its chapters says what is left and what comes next.
// Nothing leaves the browser.

(() => {
  const KEY = "maml-path";
  const followed = () => {
    try { return localStorage.getItem(KEY) || ""; } catch { return ""; }
  };
  const follow = (name) => {
    try { name ? localStorage.setItem(KEY, name) : localStorage.removeItem(KEY); } catch { return; }
    draw();
  };
  const element = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const button = (label, pressed) => {
    const node = element("button", { type: "button", class: "path-button" }, label);
    node.addEventListener("click", pressed);
    return node;
  };

  const stops = JSON.parse(document.querySelector("#path-stops")?.textContent ?? "{}");
  const bar = element("p", { class: "path-bar", role: "status" });

  function draw() {
    const name = followed();
    for (const place of document.querySelectorAll("[data-path]")) {
      const mine = place.dataset.path === name;
      const focused = place.contains(document.activeElement);
      place.replaceChildren(
        button(mine ? "Leave this path" : "Follow this path", () => follow(mine ? "" : place.dataset.path)),
        mine ? " Its chapters now say what is left and what comes next." : "",
      );
      if (focused) place.firstChild.focus();
    }
    const here = stops[name];
    if (!here) return void bar.remove();
    const next = here.next.length
      ? ["next: ", element("a", { href: here.next[0] }, here.next[1]), `; ${here.left} of reading left after this chapter.`]
      : ["the last chapter of this path."];
    bar.replaceChildren(element("strong", {}, here.title), ` · chapter ${here.at} of ${here.of} · `, ...next, " ", button("Leave", () => follow("")));
    document.querySelector("article h1")?.after(bar);
  }
  draw();
})();
