"""Serves parts of files as GDAL asks for them over HTTP: python range_server.py FOLDER; it prints its port.

It also answers GetMap of WMS 1.1.1, whose layer is a raster of the folder.
Where there is a file NAME.fail with a number beside a file NAME, so many requests for its bytes lose their connection.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Ranges(BaseHTTPRequestHandler):
    """Answers HEAD, and GET with a range of bytes."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        if self.is_lost():
            self.close_connection = True
            return
        asked = {name.upper(): values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.wfile.write(self.answer() if asked.get("REQUEST") != "GetMap" else self.draw(asked))

    def draw(self, asked):
        """Send the headers of a picture of a raster within bounds; the picture comes back."""
        import rasterio

        size = int(asked["HEIGHT"]), int(asked["WIDTH"])
        with rasterio.open(Path(sys.argv[1]) / asked["LAYERS"]) as file, rasterio.MemoryFile() as memory:
            window = file.window(*map(float, asked["BBOX"].split(",")))
            pixels = file.read(window=window, boundless=True, out_shape=(file.count, *size))
            with memory.open(driver="PNG", count=file.count, height=size[0], width=size[1], dtype="uint8") as picture:
                picture.write(pixels)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            return memory.read()

    def is_lost(self):
        """Whether the connection is to break, as often as NAME.fail says."""
        file = Path(sys.argv[1]) / (self.path.split("?")[0].lstrip("/") + ".fail")
        left = int(file.read_text()) if file.is_file() else 0
        if left:
            file.write_text(str(left - 1))
        return bool(left)

    def answer(self):
        """Send the headers; the bytes that were asked for come back."""
        file = Path(sys.argv[1]) / self.path.split("?")[0].lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return b""
        data = file.read_bytes()
        start, end = 0, len(data)
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, len(data))
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        return data[start:end]

    def log_message(self, *_):
        """Say nothing."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
