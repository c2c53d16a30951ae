"""A slim SegNet: the table of nets/segnet.py with a quarter of its planes in the shallow blocks and an eighth in the deep ones.

For laptops and for the demo, where it learns a map in minutes without a GPU.
"""

from nets.segnet import segnet

SLIM_PLANES = (16, 32, 64, 64, 64)  # of the five blocks


def segnet_slim(channels, classes):
    return segnet(channels, classes, planes=SLIM_PLANES)
