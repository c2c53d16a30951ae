// Mouse, touch and keys on the view.

const STEP = 80; // CSS pixels that an arrow key moves

/** point({x, y} or null): called as the pointer moves over the canvas. */
export function listen(view, point) {
  const { canvas } = view;
  const held = new Map();
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = place(event);
    const lines = event.deltaMode === 1 ? 16 : 1;
    view.zoom(Math.exp((-event.deltaY * lines * (event.ctrlKey ? 3 : 1)) / 500), x, y);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event);
    if (held.has(event.pointerId)) move(view, held, event.pointerId, now);
    point(now);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => held.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("dblclick", (event) => view.zoom(2, place(event).x, place(event).y));
  canvas.addEventListener("keydown", (event) => key(view, event));
}

function move(view, held, id, now) {
  const before = held.get(id);
  const other = [...held].find(([key]) => key !== id)?.[1];
  held.set(id, now);
  if (!other) return view.pan(now.x - before.x, now.y - before.y);
  const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
  view.zoom(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
  return view.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
}

function key(view, event) {
  const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (moves[event.key]) view.pan(...moves[event.key]);
  else if (event.key === "+" || event.key === "=") view.zoom(1.5);
  else if (event.key === "-") view.zoom(1 / 1.5);
  else if (event.key === "0") view.fit();
  else return;
  event.preventDefault();
}

/** A handle that is dragged, or moved by keys, from side to side. moved(share): where it is, of the width. */
export function listenToHandle(handle, stage, moved) {
  let share = 0.5;
  const set = (value) => {
    share = Math.min(1, Math.max(0, value));
    handle.style.left = `${100 * share}%`;
    handle.setAttribute("aria-valuenow", Math.round(100 * share));
    moved(share);
  };
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = stage.getBoundingClientRect();
    set((event.clientX - box.left) / box.width);
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (!step) return;
    event.preventDefault();
    set(share + step);
  });
  set(share);
}
