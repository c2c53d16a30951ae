// Saving: the labeller makes the file, the browser puts it where downloads go.

import { ENDINGS } from "../save/endings.js";
import { element, make } from "./dom.js";
import { complain, tell } from "./panel.js";
import { say } from "./texts.js";

/** current(): the image whose map is to be saved. */
export function listenForSaves(engine, current) {
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", async () => {
      button.disabled = true;
      await saveOne(engine, current(), button.dataset.save).catch(complain);
      button.disabled = false;
    });
  }
}

async function saveOne(engine, image, kind) {
  const name = image.name.replace(/\.[^.]*$/, "") + ENDINGS[kind];
  tell(say("saving", { name }));
  const least = Math.max(0, Number(element("least").value) || 0);
  const blob = await engine.call("save", { kind, map: image.map.whole, options: { least } });
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  tell(say("saved", { name }));
}
