/** Zoom, pan and comparison over the five panes, directly on the DOM: sixty times a second, without rendering. */

import { FIT, moved, placed, zoomed } from "./zoom.js";

const HOLD_MS = 350;
const CLICK_PIXELS = 6;
const WHEEL_STEP = 0.0015;
const LINE_PIXELS = [1, 16, 400]; // by WheelEvent.deltaMode

const paneOf = (event) => event.target.closest(".pane");
const numberOf = (pane) => Number(pane.dataset.number);

export class Panes {
  /**
   * @param {HTMLElement} root element in which panes appear and disappear
   * @param {{select: (number: number) => void, changed: () => void}} listener
   */
  constructor(root, listener) {
    this.root = root;
    this.listener = listener;
    this.view = FIT;
    this.pointers = new Map();
    this.overlay = null;
    this.sizes = new ResizeObserver(() => this.layout());
    root.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    root.addEventListener("pointerdown", (event) => this.onDown(event));
    root.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) root.addEventListener(name, (event) => this.onUp(event));
    root.addEventListener("pointerleave", () => this.point(null));
    root.addEventListener("dblclick", (event) => this.onDoubleClick(event));
    root.addEventListener("contextmenu", (event) => paneOf(event) && this.overlay && event.preventDefault());
  }

  panes() {
    return this.root.querySelectorAll(".pane");
  }

  /**
   * Put a preview into a pane, or empty the pane. Preact calls this after each rendering. The picture itself follows
   * when the preview is painted: decoding five large pictures would delay the first frame of a task.
   */
  mount(pane, picture, preview) {
    if (!pane || pane.querySelector("canvas") === (preview ?? null)) return;
    for (const before of pane.querySelectorAll("img, canvas")) before.remove();
    if (!preview) return;
    pane.prepend(preview);
    this.sizes.observe(pane);
    afterPaint()
      .then(() => picture.decode())
      .then(() => {
        if (preview.parentElement === pane) preview.after(picture);
        this.place(pane, picture);
      });
  }

  /** Change the view of all panes. The panes follow before the next frame. */
  show(view) {
    this.view = view;
    this.root.classList.toggle("zoomed", view.scale > 1);
    this.pending ??= requestAnimationFrame(() => this.layout());
    this.listener.changed();
  }

  layout() {
    cancelAnimationFrame(this.pending);
    this.pending = undefined;
    for (const pane of this.panes()) for (const picture of pane.querySelectorAll("img, canvas")) this.place(pane, picture);
  }

  place(pane, picture) {
    if (!pane.clientWidth) return;
    const { factor, left, top } = placed(this.view, sizeOf(pane), naturalSizeOf(picture));
    picture.style.transform = `translate(${left}px, ${top}px) scale(${factor})`;
  }

  /** Distance of a point on the screen from the middle of a pane, in fractions of the fitted picture. */
  offset(pane, { clientX, clientY }) {
    const box = pane.getBoundingClientRect();
    const { size } = placed(this.view, sizeOf(pane), naturalSizeOf(pane.querySelector("canvas")));
    return [
      (clientX - box.left - box.width / 2) / size.width,
      (clientY - box.top - box.height / 2) / size.height,
    ];
  }

  zoom(factor) {
    this.show(zoomed(this.view, factor));
  }

  pan(dx, dy) {
    this.show(moved(this.view, dx, dy));
  }

  fit() {
    this.show(FIT);
  }

  onWheel(event) {
    const pane = paneOf(event);
    // Where the page itself scrolls, the wheel must keep doing so; with Ctrl, and by a touchpad's pinch, it zooms.
    const page = document.scrollingElement;
    if (!pane?.querySelector("canvas") || (page.scrollHeight > page.clientHeight + 1 && !event.ctrlKey)) return;
    event.preventDefault();
    const factor = Math.exp(-event.deltaY * LINE_PIXELS[event.deltaMode] * WHEEL_STEP * (event.ctrlKey ? 5 : 1));
    this.show(zoomed(this.view, factor, ...this.offset(pane, event)));
  }

  onDown(event) {
    const pane = paneOf(event);
    if (!pane?.querySelector("canvas") || event.button !== 0) return;
    pane.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    clearTimeout(this.holding);
    this.start = this.pointers.size === 1 ? event : null; // null: two fingers, which neither click nor hold
    if (this.start) this.holding = setTimeout(() => this.hold(pane), HOLD_MS);
  }

  hold(pane) {
    if (!this.start || numberOf(pane) === 0) return;
    this.start = null;
    this.compare(numberOf(pane));
  }

  onMove(event) {
    if (event.pointerType === "mouse") this.point(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const pane = paneOf(event);
    if (this.start && distance(this.start, event) > CLICK_PIXELS) {
      clearTimeout(this.holding);
      this.start = null;
    }
    const other = [...this.pointers.values()].find((one) => one.pointerId !== event.pointerId);
    if (other) this.pinch(pane, before, event, other);
    else if (!this.start && !this.overlay) this.drag(pane, before, event);
    this.pointers.set(event.pointerId, event);
  }

  drag(pane, before, event) {
    const [x, y] = this.offset(pane, before);
    const [toX, toY] = this.offset(pane, event);
    this.show(moved(this.view, toX - x, toY - y));
  }

  pinch(pane, before, event, other) {
    const from = middle(before, other);
    const to = middle(event, other);
    const view = zoomed(this.view, distance(event, other) / (distance(before, other) || 1), ...this.offset(pane, from));
    const [x, y] = this.offset(pane, from);
    const [toX, toY] = this.offset(pane, to);
    this.show(moved(view, toX - x, toY - y));
  }

  onUp(event) {
    clearTimeout(this.holding);
    this.pointers.delete(event.pointerId);
    this.endCompare();
    const pane = paneOf(event);
    if (this.start && pane && event.type === "pointerup" && numberOf(pane) > 0) this.listener.select(numberOf(pane));
    this.start = null;
  }

  onDoubleClick(event) {
    const pane = paneOf(event);
    if (!pane?.querySelector("canvas")) return;
    this.show(this.view.scale > 1 ? FIT : zoomed(this.view, 3, ...this.offset(pane, event)));
  }

  /** Show with a mark in the other panes which point is below the mouse. */
  point(event) {
    const pane = event && paneOf(event);
    const offset = pane?.querySelector("canvas") && this.offset(pane, event);
    for (const other of this.panes()) {
      const mark = other.querySelector(".mark");
      const picture = other.querySelector("canvas");
      mark.hidden = !offset || other === pane || !picture;
      if (mark.hidden) continue;
      const { size } = placed(this.view, sizeOf(other), naturalSizeOf(picture));
      const left = other.clientWidth / 2 + offset[0] * size.width;
      const top = other.clientHeight / 2 + offset[1] * size.height;
      mark.style.transform = `translate(${left}px, ${top}px)`;
    }
  }

  /** Lay the original over a picture until `endCompare`. */
  compare(number) {
    const pane = this.root.querySelector(`.pane[data-number="${number}"]`);
    if (this.overlay || !pane || !this.original) return;
    this.overlay = this.original;
    this.overlay.className = "over";
    pane.append(this.overlay);
    pane.classList.add("comparing");
    this.place(pane, this.overlay);
  }

  endCompare() {
    this.overlay?.parentElement?.classList.remove("comparing");
    this.overlay?.remove();
    this.overlay = null;
  }
}

const afterPaint = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const sizeOf = (pane) => ({ width: pane.clientWidth, height: pane.clientHeight });
const naturalSizeOf = ({ naturalWidth, naturalHeight, width, height }) => ({
  width: naturalWidth ?? width, // a canvas has no natural size
  height: naturalHeight ?? height,
});
const distance = (one, other) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
const middle = (one, other) => ({
  clientX: (one.clientX + other.clientX) / 2,
  clientY: (one.clientY + other.clientY) / 2,
});
