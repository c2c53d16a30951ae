"""The config's inference: the sliding window, how windows are blended, and how much memory that may take."""

from dataclasses import dataclass

from tools.base.sections import SIZE_WISH, Section, is_size, optional, setting, whole, within
from tools.geo.windows import TAPERS, check_step, step_in_pixels

LOOKS = ("flips", "d4", "scales")  # averages.py says what they are; it loads PyTorch, which the config's reader does not need


def _is_share(v) -> bool:
    return isinstance(v, float) and 0 < v <= 1


def _is_probability(v) -> bool:
    return isinstance(v, float) and within(0, 1)(v)


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(Section):
    """How tiles are labelled, in validation and in inference. config.py says what each setting is for."""

    test_patch_size: tuple = setting(is_size, SIZE_WISH, (128, 128))
    test_step_size: tuple | float = setting(
        lambda v: is_size(v) or _is_share(v), f"{SIZE_WISH}, or a share of test_patch_size such as 0.5", 0.5
    )
    BLEND: str = setting(lambda v: v in TAPERS, f"one of {', '.join(TAPERS)}", "cosine")
    TEST_BATCH_SIZE: int | None = setting(
        optional(whole(1)), "a whole number of windows, 1 or more, or None", None, effect=False
    )
    MEMORY_MB: int = setting(whole(1), "a whole number of megabytes, 1 or more", 256, effect=False)
    TTA: str | None = setting(lambda v: v is None or v in LOOKS, f"one of {', '.join(LOOKS)}, or None", None)
    THRESHOLD: float | None = setting(optional(_is_probability), "a probability between 0 and 1, or None", None)

    def check(self) -> None:
        """Raise UserError if windows would leave pixels out."""
        check_step("test_step_size", self.test_step_size, "test_patch_size", self.test_patch_size)

    @property
    def windows(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size and step of the sliding window in pixels."""
        return self.windows_of(tuple(self.test_patch_size))

    def windows_of(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """The same for windows of another size: they overlap by the same share."""
        step = step_in_pixels(self.test_step_size, self.test_patch_size)
        if size == tuple(self.test_patch_size):
            return size, step
        shares = [apart / side for apart, side in zip(step, self.test_patch_size, strict=True)]
        return size, tuple(max(1, round(share * side)) for share, side in zip(shares, size, strict=True))
