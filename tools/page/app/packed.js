// What the page carries in itself: gzip in base64, each in a <script type="text/plain"> of its own.

/** The bytes under an id, an ArrayBuffer. */
export async function unpack(id) {
  const packed = document.getElementById(id).textContent.trim();
  const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** What the page knows of its net: build by tools/export/page.py. */
export const about = () => JSON.parse(document.getElementById("about-net").textContent);

/** A worker whose code is packed in the page. */
export async function worker(id) {
  const address = URL.createObjectURL(new Blob([await unpack(id)], { type: "text/javascript" }));
  return new Worker(address);
}
