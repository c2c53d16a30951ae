"""Forward passes of a batch of any size: from raw pixels to probabilities, in as many parts as the memory asks for."""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tools.base.errors import UserError
from tools.compute.device import Device, out_of_memory
from tools.data.inputs import Input

_CPU_PIXELS = 16 * 128 * 128  # of a batch on a processor, which larger ones make no faster, but hungrier
_MOST_WINDOWS = 256  # of a batch: beyond that, no GPU is any faster
_GPU_SHARE = 0.7  # of the free memory of a GPU: what a pass takes varies with the kernels that are chosen


class Forward:
    """From the raw pixels of some windows (N x channels x h x w per input) to their probabilities (N x classes x h x w).

    net: on its device, or anything that is called like one. batch: windows that go through it together; None for what fits.
    size: of the windows, height and width.
    """

    def __init__(self, net: nn.Module, inputs: list[Input], device: Device, batch: int | None, size: tuple[int, int]):
        self.net, self.inputs, self.device, self.size = net, inputs, device, size
        self.found = batch is None
        self.batch = batch or self._largest_batch()

    def __call__(self, pixels: list[Tensor]) -> Tensor:
        """The softmax probabilities, float32, on the device. Call it within `inference_mode` and the device's `autocast`.

        Raises UserError where the memory is too small: for a given batch, or for a single window.
        """
        try:
            parts = list(zip(*[x.split(self.batch) for x in pixels], strict=True))
            return self._pass(pixels) if len(parts) == 1 else torch.cat([self._pass(list(part)) for part in parts])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        self._shrink(min(self.batch, len(pixels[0])))
        return self(pixels)

    def _pass(self, pixels: list[Tensor]) -> Tensor:
        seen = [spec.normalise(self.device.send(x)) for spec, x in zip(self.inputs, pixels, strict=True)]
        logits = self.net(*[x.contiguous(memory_format=self.device.memory_format) for x in seen])
        values = logits.to(torch.float32, memory_format=torch.contiguous_format)
        return values if hasattr(self.net, "planes") else values.softmax(1)  # averages.Sampled gives probabilities and more

    def _shrink(self, tried: int) -> None:
        """Half of the windows from now on, or a sentence that says what to set."""
        size = f"windows of {self.size[0]}x{self.size[1]} pixels"
        if tried == 1:
            raise UserError(f"not even one of the {size} fits in the memory of {self.device}: make test_patch_size smaller.")
        if not self.found:
            raise UserError(
                f"TEST_BATCH_SIZE = {self.batch} {size} do not fit in the memory of {self.device}: set {tried // 2}, or None,"
                " which finds out how many do."
            )
        self.batch = tried // 2
        if self.device.device.type == "cuda":
            torch.cuda.empty_cache()
        tqdm.write(f"note: {tried} {size} do not fit in the memory of {self.device}; {self.batch} together from now on.")

    def _largest_batch(self) -> int:
        """As many windows as make the device busy and fit in its memory."""
        if self.device.device.type == "cuda":
            return self._largest_on_gpu()
        return min(max(1, _CPU_PIXELS // (self.size[0] * self.size[1])), _MOST_WINDOWS)

    def _largest_on_gpu(self) -> int:
        """From what two windows take more than one, and the memory that is free."""
        device, peaks = self.device.device, []
        with torch.inference_mode(), self.device.autocast():
            for count in (1, 2):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
                self._pass([torch.zeros(count, i.channels, *self.size, dtype=torch.uint8) for i in self.inputs])
                peaks.append(torch.cuda.max_memory_allocated(device))
        torch.cuda.empty_cache()
        free, each = torch.cuda.mem_get_info(device)[0], max(1, peaks[1] - peaks[0])
        return min(max(1, int(_GPU_SHARE * free / each)), _MOST_WINDOWS)
