// The published page has no kernel: this object is the whole model.
function standIn(state) {
  const listeners = {};
  return {
    get: (key) => state[key],
    set(key, value) {
      if (state[key] === value) return;
      state[key] = value;
      for (const listener of listeners["change:" + key] ?? []) listener();
    },
    on(event, listener) {
      (listeners[event] ??= []).push(listener);
    },
    off(event) {
      delete listeners[event];
    },
    save_changes() {},
  };
}
