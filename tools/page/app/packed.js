// What the page carries in itself: gzip in base64, each in a <script type="text/plain"> of its own.

/** The bytes under an id, an ArrayBuffer. */
export async function unpack(id) {
  const packed = document.getElementById(id).textContent.trim();
  const bytes = Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Bytes that lie in four planes (tools/page/assemble.py), which made them pack better, in their order again. */
export function inOrder(buffer) {
  const [planes, found] = [new Uint8Array(buffer), new Uint8Array(buffer.byteLength)];
  const count = Math.floor(planes.length / 4);
  for (let plane = 0; plane < 4; plane++) for (let i = 0; i < count; i++) found[4 * i + plane] = planes[plane * count + i];
  found.set(planes.subarray(4 * count), 4 * count);
  return found.buffer;
}

/** What the page knows of its net: as tools/page/assemble.py says it. */
export const about = () => JSON.parse(document.getElementById("about-net").textContent);

/** A worker whose code is packed in the page. */
export async function worker(id) {
  const address = URL.createObjectURL(new Blob([await unpack(id)], { type: "text/javascript" }));
  return new Worker(address);
}
