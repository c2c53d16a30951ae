// Bytes on their way into files: compression, checksums.

/** Bytes, or an iterable of pieces of them, compressed as zlib does. */
export async function deflate(pieces) {
  const source = pieces[Symbol.iterator] && !(pieces instanceof Uint8Array) ? pieces : [pieces];
  const iterator = source[Symbol.iterator]();
  const stream = new ReadableStream({
    pull(controller) {
      const { done, value } = iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
  return new Uint8Array(await new Response(stream.pipeThrough(new CompressionStream("deflate"))).arrayBuffer());
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** The checksum of PNG's chunks. */
export function crc32(...parts) {
  let crc = 0xffffffff;
  for (const part of parts) for (const byte of part) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** The label that stands where there is no data: the palette's last one, where it is no class, or 255. */
export const noLabel = (net) => (String(net.classes.length) in net.palette ? net.classes.length : 255);
