// Short ways to the page's elements.

export const element = (id) => document.getElementById(id);

/** An element: its tag, properties and attributes, and what is in it (text is never read as HTML). */
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "style") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** The element is there or not. */
export const show = (id, visible) => (element(id).hidden = !visible);

/** Confidence in colours, 0 to 100 per cent: matplotlib's viridis between seven of its colours, so that unsure is dark. */
export const RAMP = Array.from({ length: 101 }, (_, percent) => {
  const stops = [[68, 1, 84], [68, 57, 131], [49, 104, 142], [33, 145, 140], [53, 183, 121], [144, 215, 67], [253, 231, 37]];
  const place = (percent / 100) * (stops.length - 1);
  const first = Math.min(stops.length - 2, Math.floor(place));
  return stops[first].map((part, i) => Math.round(part + (place - first) * (stops[first + 1][i] - part)));
});
