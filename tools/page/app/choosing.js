// Choosing images: dropped, or by the button; where the net reads several modalities, one file for each is asked for.

import { element, make } from "./dom.js";
import { say } from "./texts.js";

/** modalities: names. take(files): called with {modality: File} for each place. */
export function listenForFiles(modalities, take) {
  const input = element("files");
  const chosen = (files) => {
    if (modalities.length > 1) return ask(modalities, files, take);
    return files.forEach((file) => take({ [modalities[0]]: file }));
  };
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.addEventListener("click", () => (modalities.length > 1 ? ask(modalities, [], take) : input.click()));
  }
  input.addEventListener("change", () => {
    chosen([...input.files]);
    input.value = "";
  });
  listenForDrops(chosen);
}

function listenForDrops(chosen) {
  const stage = element("stage");
  for (const kind of ["dragenter", "dragover"]) {
    window.addEventListener(kind, (event) => {
      event.preventDefault();
      stage.classList.add("over");
    });
  }
  window.addEventListener("dragleave", (event) => event.relatedTarget ?? stage.classList.remove("over"));
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) chosen(files);
  });
}

/** Ask for a file of each modality; those whose names tell which they are stand in their fields already. */
function ask(modalities, files, take) {
  const dialog = element("chooser");
  const found = assign(modalities, files);
  const fields = modalities.map((modality) => {
    const input = make("input", { type: "file", accept: element("files").accept });
    input.addEventListener("change", () => (found[modality] = input.files[0] ?? found[modality]));
    if (found[modality]) input.files = listOf(found[modality]);
    return make("label", {}, modality, input);
  });
  element("fields").replaceChildren(...fields);
  element("chooser-fault").textContent = "";
  element("chooser-cancel").onclick = () => dialog.close();
  dialog.querySelector("form").onsubmit = (event) => {
    const missing = modalities.find((modality) => !found[modality]);
    if (!missing) return take(found);
    event.preventDefault();
    element("chooser-fault").textContent = say("missingModality", { modality: missing });
    return undefined;
  };
  if (!dialog.open) dialog.showModal();
}

/** Files by modality: first by name, the longest modality first ("ndsm" holds "dsm"), then in order. */
export function assign(modalities, files) {
  const [found, rest] = [{}, [...files]];
  for (const modality of [...modalities].sort((one, other) => other.length - one.length)) {
    const i = rest.findIndex((file) => file.name.toLowerCase().includes(modality.toLowerCase()));
    if (i >= 0) found[modality] = rest.splice(i, 1)[0];
  }
  for (const modality of modalities) if (!found[modality] && rest.length) found[modality] = rest.shift();
  return found;
}

function listOf(file) {
  const transfer = new DataTransfer();
  transfer.items.add(file);
  return transfer.files;
}
