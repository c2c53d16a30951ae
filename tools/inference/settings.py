"""The config's inference: the sliding window, how windows are blended, and how much memory that may take."""

from dataclasses import dataclass

from tools.base.errors import UserError
from tools.base.sections import SIZE_WISH, Section, is_size, optional, setting, whole, within
from tools.geo.windows import TAPERS, check_step

AUTO = "auto"  # of window and step: what suits net and tile, see window_size.py

LOOKS = ("flips", "d4", "scales")  # averages.py says what they are; it loads PyTorch, which the config's reader does not need


def _is_share(v) -> bool:
    return isinstance(v, float) and 0 < v <= 1


def _is_probability(v) -> bool:
    return isinstance(v, float) and within(0, 1)(v)


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(Section):
    """How tiles are labelled, in validation and in inference. config.py says what each setting is for."""

    test_patch_size: tuple | str = setting(lambda v: v == AUTO or is_size(v), f"{SIZE_WISH}, or 'auto'", (128, 128))
    test_step_size: tuple | float | str = setting(
        lambda v: v == AUTO or is_size(v) or _is_share(v),
        f"{SIZE_WISH}, a share of test_patch_size such as 0.5, or 'auto'",
        0.5,
    )
    BLEND: str = setting(lambda v: v in TAPERS, f"one of {', '.join(TAPERS)}", "cosine")
    TEST_BATCH_SIZE: int | None = setting(
        optional(whole(1)), "a whole number of windows, 1 or more, or None", None, effect=False
    )
    MEMORY_MB: int = setting(whole(1), "a whole number of megabytes, 1 or more", 256, effect=False)
    TTA: str | None = setting(lambda v: v is None or v in LOOKS, f"one of {', '.join(LOOKS)}, or None", None, effect=False)
    THRESHOLD: float | None = setting(optional(_is_probability), "a probability between 0 and 1, or None", None)

    def check(self) -> None:
        """Raise UserError if windows would leave pixels out, or if a step in pixels is given for windows that are chosen."""
        size, step = self.test_patch_size, self.test_step_size
        if size == AUTO and isinstance(step, tuple | list):
            raise UserError(
                f"test_step_size = {step} is in pixels, but test_patch_size = 'auto' has windows of several sizes: give a share"
                " such as 0.5, or 'auto'."
            )
        if AUTO not in (size, step):
            check_step("test_step_size", step, "test_patch_size", size)
