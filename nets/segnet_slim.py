"""A slim SegNet: the table of nets/segnet.py with a quarter of its planes in the shallow blocks and an eighth in the deep ones.

For laptops and for the demo, where it learns a map in minutes without a GPU.
At 3 channels and 6 classes: 664,086 learnable values, 0.47 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.segnet import segnet

SLIM_PLANES = (16, 32, 64, 64, 64)  # of the five blocks


def segnet_slim(channels, classes):
    return segnet(channels, classes, planes=SLIM_PLANES)


if __name__ == "__main__":
    show(segnet_slim)
