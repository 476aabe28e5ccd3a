// What a deck does: light or dark, formulas, every slide fitted into its frame, then reveal.js.
"use strict";
{
  const page = document.documentElement;
  const printing = /print-pdf/.test(location.search);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let asked = null; // by the reader; else the system says

  const dress = () => {
    page.dataset.theme = printing ? "light" : asked ?? (dark.matches ? "dark" : "light");
  };
  const turn = () => {
    asked = page.dataset.theme === "dark" ? "light" : "dark";
    dress();
  };
  dark.addEventListener("change", dress);
  dress();
  const inside = self !== top; // a window of the speaker's
  page.classList.toggle("inside", inside);

  // On an upright phone a slide is upright, too: twice as large to read. Turned round, the deck is fitted again.
  const phone = matchMedia("(orientation: portrait) and (max-width: 600px)");
  const upright = phone.matches && !printing && !inside;
  page.classList.toggle("upright", upright);
  if (!printing && !inside) phone.addEventListener("change", () => location.reload());

  // The speaker's window knows nothing of MathJax: formulas in notes become MathML, which the browser draws.
  const speak = (math) => {
    if (!math.start.node?.parentElement?.closest("aside.notes")) return;
    math.typesetRoot = document.createElement("span");
    math.typesetRoot.innerHTML = MathJax.startup.toMML(math.root);
  };
  window.MathJax = {
    tex: { inlineMath: [["$", "$"]], displayMath: [["$$", "$$"]] },
    options: {
      enableMenu: false,
      ignoreHtmlClass: "mathjax_ignore|tex2jax_ignore|maml-figure",
      renderActions: { speak: [190, (doc) => { for (const math of doc.math) speak(math); }, speak] },
    },
    startup: { pageReady: () => MathJax.startup.defaultPageReady().then(begin) },
  };

  const frames = (n) => new Promise((done) => (n ? requestAnimationFrame(() => frames(n - 1).then(done)) : done()));

  const overflows = (slide) => {
    const edge = slide.getBoundingClientRect().right - parseFloat(getComputedStyle(slide).paddingRight) + 4;
    const bottom = slide.getBoundingClientRect().bottom - parseFloat(getComputedStyle(slide).paddingBottom);
    return (
      slide.scrollHeight > slide.clientHeight ||
      [...slide.querySelectorAll(".part")].some((part) => part.getBoundingClientRect().bottom > bottom) ||
      [...slide.querySelectorAll("pre")].some((part) => part.scrollWidth > part.clientWidth + 1) ||
      [...slide.querySelectorAll(".part > table, .results > table, mjx-math")].some((part) => part.getBoundingClientRect().right > edge)
    );
  };

  // A table's head of one line lets its columns stand close; it is worth some size.
  const wraps = (slide) =>
    [...slide.querySelectorAll("thead th")].some((cell) => cell.clientHeight > 2 * parseFloat(getComputedStyle(cell).fontSize));

  // From its largest size down to the first at which everything is inside.
  const fit = async (slides) => {
    page.classList.add("measuring");
    const largest = new Map(slides.map((slide) => [slide, slide.querySelector(".maml-figure") ? 1.5 : 1.2]));
    for (let less = 0; slides.length && less < 1; less += 0.04) {
      for (const slide of slides) slide.style.setProperty("--scale", (largest.get(slide) - less).toFixed(2));
      await frames(2); // interactive figures draw themselves again when their width changes
      slides = slides.filter((slide) => overflows(slide) || (less < 0.2 && wraps(slide)));
    }
    page.classList.remove("measuring");
  };

  async function begin() {
    await document.fonts.ready;
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
    await fit([...document.querySelectorAll(".slides section")]);
    await Reveal.initialize({
      width: upright ? 640 : 1280,
      height: upright ? 1240 : 720,
      margin: 0,
      center: false,
      display: "flex",
      hash: true,
      slideNumber: "c/t",
      transition: "none",
      scrollActivationWidth: null, // a phone gets slides, too
      viewDistance: 40,
      mobileViewDistance: 40,
      pdfSeparateFragments: false,
      pdfMaxPagesPerSlide: 1,
      showNotes: /spoken/.test(location.search) ? "separate-page" : false, // "notes" there would open the speaker's window
      // inside an interactive figure space and enter press buttons
      keyboardCondition: (event) => !(["Enter", " "].includes(event.key) && event.target.closest?.("a, button")),
      keyboard: { 84: turn },
      plugins: [RevealNotes],
    });
    Reveal.addKeyBinding({ keyCode: 84, key: "T", description: "Light or dark" }, turn);
    page.dataset.ready = "";
  }

  addEventListener("DOMContentLoaded", () => {
    const does = { theme: turn, notes: () => Reveal.getPlugin("notes").open() };
    for (const button of document.querySelectorAll("[data-does]")) button.addEventListener("click", () => does[button.dataset.does]());
    if (!document.querySelector(".reveal")) addEventListener("keydown", (event) => event.key.toLowerCase() === "t" && turn());
  });
}
