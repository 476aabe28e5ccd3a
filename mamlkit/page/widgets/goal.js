// What the reader is to reach; it says so once it is reached.

function goal(text) {
  const head = element("strong");
  const node = element("p", { class: "maml-small", role: "status", "aria-live": "polite", "aria-atomic": "true" }, head, text);
  return {
    node,
    reached(met) {
      const now = met ? "✓ Goal reached: " : "Goal: ";
      if (head.textContent !== now) head.textContent = now;
      node.style.color = met ? "var(--maml-ink)" : "";
    },
  };
}
