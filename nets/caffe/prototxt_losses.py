"""The losses of a prototxt: which scores the net is for, which others train with them, and what is not taken over."""

from collections.abc import Mapping
from dataclasses import dataclass

from nets.caffe.prototxt_layers import LOSS, Layer
from nets.caffe.prototxt_text import Message
from tools.base.errors import listing


@dataclass(frozen=True)
class Loss:
    """A SoftmaxWithLoss. scores, label: blobs that it reads. weight: its loss_weight. ignore_label: None for none.

    class_weights: SegNet's class_weighting. summed: whether it is a sum over pixels, and not a mean.
    """

    name: str
    scores: str
    label: str
    weight: float
    ignore_label: int | None
    class_weights: tuple[float, ...]
    summed: bool

    @classmethod
    def of(cls, layer: Layer, reads: list[str]) -> "Loss":
        """The loss that a layer is, reading these blobs."""
        said = layer.message.last("loss_param") or layer.message.last("softmaxloss_param") or Message()
        weight = float((layer.message.all("loss_weight") or [1])[0])
        weighs = str(said.last("weight_by_label_freqs", False)).lower() == "true"
        normalization = str(said.last("normalization", ""))
        summed = str(said.last("normalize", True)).lower() == "false" if not normalization else normalization != "VALID"
        return cls(
            layer.name, reads[0], reads[1] if len(reads) > 1 else "", weight, said.last("ignore_label"),
            tuple(float(w) for w in said.all("class_weighting")) if weighs else (), summed and normalization != "FULL",
        )  # fmt: skip


def is_loss(layer: Layer) -> bool:
    """Whether a layer is the loss that this project takes over."""
    return layer.type == LOSS


def main_loss(losses: list[Loss]) -> Loss | None:
    """The loss whose scores are the net's output: the one of the greatest weight, the first of equal ones."""
    return max(losses, key=lambda loss: loss.weight, default=None)


def sorted_out(losses: list[Loss], main: Loss, label_of: Mapping[str, str]) -> tuple[list[Loss], list[str]]:
    """The further losses that can train with the main one, and a sentence on each that cannot.

    label_of: for the blob of labels that a loss reads, the input that it comes from.
    """
    taken, notes = [], []
    for loss in losses:
        if loss is main:
            continue
        if loss.weight == 0:
            notes.append(f"the loss '{loss.name}' is left out: its loss_weight is 0.")
        elif label_of.get(loss.label) != label_of.get(main.label):
            notes.append(
                f"the loss '{loss.name}' of '{loss.scores}' is left out: it compares with other labels ('{loss.label}') than"
                f" '{main.name}', whose '{main.scores}' are the scores of this net."
            )
        else:
            taken.append(loss)
    return taken, notes


def notes_on(main: Loss, further: list[Loss]) -> list[str]:
    """Sentences on what the losses mean here: which is which, and what the config must say to have what the file has."""
    notes = []
    if further:
        others = listing([f"'{loss.name}' (loss_weight {loss.weight:g})" for loss in further])
        notes.append(
            f"the net's scores are those of the loss '{main.name}' (loss_weight {main.weight:g}); {others} train with it."
        )
    if main.class_weights:
        weights = ", ".join(f"{w:g}" for w in main.class_weights)
        notes.append(f"its loss weighs the classes; to train so, set CLASS_WEIGHTS = ({weights}).")
    if main.ignore_label not in (None, 255):  # 255 is no class, and never learned
        notes.append(f"its loss ignores the label {main.ignore_label}; to train so, set IGNORE_LABEL = {main.ignore_label}.")
    if main.summed:
        notes.append(
            f"its loss '{main.name}' is a sum over pixels, training.py's is a mean: multiply its learning rate by the labelled"
            " pixels of a patch."
        )
    return notes
