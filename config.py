"""The one file to edit. Every script reads it; `--config other.py` reads another one of the same form.

Adding a dataset: copy one of the blocks below, give it a name, and set DATASET to that name.
Names that begin with an underscore are yours; any other name that no script knows is refused.
"""

from tools.data import find_ids, group_tiles, list_ids, split_by_share

# ------------------------------------------------------------------------------------------------------ which data, where
DATASET = "demo"  # one of the blocks below
BASE_DIR = "data/"  # everything that the scripts make lies below this folder
RECIPE = "modern"  # what settings are that this file leaves out: "modern" (light net, ImageNet's weights) or "original" (2016)
FOLDER_SUFFIX = ""  # added to all folders, e.g. "_256", to keep what is cut otherwise apart
RUN = None  # a name for this experiment's snapshots and maps, e.g. "adam"; runs that cut the same share patches and databases

INPUTS = {"irrg": ["irrg"]}  # inputs of the net: name -> the modalities, or named bands of them, that it stacks in this order
bands = {}  # names of a modality's bands, where INPUTS picks some: {"rgbir": ["red", "green", "blue", "ir"]}
RESIZE = None  # size that tiles are read at before all else: (1000, 1000) pixels (DeepGlobe), or a share, 0.5; maps: their own
# ISPRS's classes serve three of the blocks, the others set their own. A label beyond the last class (6, black): not scored.
label_values = [
    "impervious surfaces",
    "building",
    "low vegetation",
    "tree",
    "car",
    "clutter",
]  # the classes 0, 1, 2 ...
palette = {  # label: colour (R, G, B)
    0: (255, 255, 255),
    1: (0, 0, 255),
    2: (0, 255, 255),
    3: (0, 255, 0),
    4: (255, 255, 0),
    5: (255, 0, 0),
    6: (0, 0, 0),
}
IGNORE_LABEL = 5  # class, or list of classes, that gives no loss and is left out of the second mean; None for none
SOURCE_CLASSES = None  # the ground truth's own classes where they differ: {"hut": (255, 0, 0), ...}, or with numbers
CLASS_MAPPING = None  # what becomes of each: {"hut": "building", "shadow": None}, several may join; None: not scored
LABEL_ATTRIBUTE = None  # where folders["labels"] is a .gpkg, .shp or .geojson: the attribute that names a polygon's class
LABEL_BACKGROUND = None  # and the class of pixels that no polygon covers; None: not scored
# Where LABEL_BACKGROUND holds: "hull" (around all polygons) or within a vector file, the rest is not scored; None: everywhere
LABEL_AREA = None

if DATASET == "demo":  # made by `python -m tools.demo`: Vaihingen's layout, 512x512 pixels a tile
    DATASET_DIR = BASE_DIR + "demo/"
    folders = {  # modality: file of a tile below DATASET_DIR, {} stands for the tile's id
        "irrg": "top/top_mosaic_09cm_area{}.tif",
        "dsm": "dsm/dsm_09cm_matching_area{}.tif",
        "ndsm": "ndsm/dsm_09cm_matching_area{}_normalized.jpg",
        "composite": "composite/composite_{}.tif",  # NDVI, DSM, nDSM, made by python -m tools.composite
        "osm": "osm/osm_{}.tif",  # OpenStreetMap, made by python -m tools.osm data/demo/map/osm.geojson
        "labels": "gts_numpy/top_mosaic_09cm_area{}.tif",  # made from gts_for_participants by convert_gt.py
        "labels_eroded": "gts_eroded_numpy/top_mosaic_09cm_area{}_noBoundary.tif",  # optional; scores only
    }
    train_ids = [1, 3, 5, 7, 11, 13]
    val_ids = [15]  # set aside from the training tiles: scores while training
    test_ids = [32, 34]  # never seen in training
    MEAN_PIXEL = {"irrg": None}  # per modality, in the file's band order and units; None: computed from the training tiles

elif DATASET == "vaihingen":
    RECIPE = "original"  # Caffe's; "modern" gives a good map sooner
    DATASET_DIR = BASE_DIR + "vaihingen/"
    folders = {
        "irrg": "top/top_mosaic_09cm_area{}.tif",
        "dsm": "dsm/dsm_09cm_matching_area{}.tif",
        "ndsm": "ndsm/dsm_09cm_matching_area{}_normalized.jpg",
        "composite": "composite/composite_{}.tif",  # NDVI, DSM, nDSM, made by python -m tools.composite
        "osm": "osm/osm_{}.tif",  # OpenStreetMap, made by python -m tools.osm EXTRACT
        "labels": "gts_numpy/top_mosaic_09cm_area{}.tif",
        "labels_eroded": "gts_eroded_numpy/top_mosaic_09cm_area{}_noBoundary.tif",
    }
    train_ids = [1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28]  # the original's scripts, less area 30
    val_ids = [30]
    test_ids = [32, 34, 37]
    MEAN_PIXEL = {"irrg": (120.90, 81.93, 81.29)}  # IR, R, G: the original's (81.29, 81.93, 120.90) is in BGR order

elif DATASET == "potsdam":
    RECIPE = "original"  # Caffe's; "modern" gives a good map sooner
    DATASET_DIR = BASE_DIR + "potsdam/"
    folders = {
        "rgb": "2_Ortho_RGB/top_potsdam_{}_{}_RGB.tif",
        "irrg": "3_Ortho_IRRG/top_potsdam_{}_{}_IRRG.tif",
        "rgbir": "4_Ortho_RGBIR/top_potsdam_{}_{}_RGBIR.tif",
        "dsm": "1_DSM/dsm_potsdam_{:02d}_{:02d}.tif",
        "ndsm": "1_DSM_normalisation/dsm_potsdam_{:02d}_{:02d}_normalized_lastools.jpg",
        "composite": "composite/composite_{}_{}.tif",
        "osm": "osm/osm_{}_{}.tif",
        "labels": "gts_numpy/top_potsdam_{}_{}_label.tif",
        "labels_eroded": "gts_eroded_numpy/top_potsdam_{}_{}_label_noBoundary.tif",
    }
    train_ids = [(3, 12), (6, 8), (4, 11), (3, 10), (7, 9), (4, 10), (6, 10), (7, 7), (5, 10), (7, 11), (2, 12), (6, 9)]
    train_ids += [(5, 11), (6, 12), (7, 8), (2, 10), (6, 7), (6, 11)]  # the original's, less (4, 12)
    val_ids = [(4, 12)]
    test_ids = [(2, 11), (7, 12), (3, 11), (5, 12), (7, 10)]
    MEAN_PIXEL = {"irrg": None}

elif DATASET == "deepglobe":  # convert_gt.py data/deepglobe/train/*_mask.png --from-color --threshold --out ...
    DATASET_DIR = BASE_DIR + "deepglobe/"
    folders = {"rgb": "train/{}_sat.jpg", "labels": "gts_numpy/{}_mask.png"}
    INPUTS = {"rgb": ["rgb"]}
    label_values = ["urban", "agriculture", "rangeland", "forest", "water", "barren"]
    palette = {0: (0, 255, 255), 1: (255, 255, 0), 2: (255, 0, 255), 3: (0, 255, 0), 4: (0, 0, 255), 5: (255, 255, 255)}
    palette[6] = (0, 0, 0)  # unknown: not scored
    IGNORE_LABEL = None
    _ids = find_ids(DATASET_DIR, folders["rgb"])  # only these images have public masks, so the split is ours
    train_ids, val_ids, test_ids = split_by_share(_ids, train=0.7, val=0.1, test=0.2, seed=1)
    MEAN_PIXEL = {"rgb": None}

elif DATASET == "openearthmap":  # convert_gt.py data/openearthmap/*/labels/ --from-index (colour masks: --from-color) --out ...
    DATASET_DIR = BASE_DIR + "openearthmap/"
    _suffix = ".tif"  # of the images; ".jpg" in the small version, whose masks are ".png"
    _mask_suffix = ".tif"
    folders = {"rgb": "{0}/images/{0}_{1}" + _suffix, "labels": "gts_numpy/{}_{}" + _mask_suffix}  # id: (region, number)
    INPUTS = {"rgb": ["rgb"]}
    label_values = ["background", "bareland", "rangeland", "developed", "road", "tree", "water", "agriculture", "building"]
    palette = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 255, 36), 3: (148, 148, 148), 4: (255, 255, 255), 5: (34, 97, 38)}
    palette |= {6: (0, 69, 255), 7: (75, 181, 73), 8: (222, 31, 7)}
    IGNORE_LABEL = 0  # background
    _there = set(find_ids(DATASET_DIR, folders["rgb"]))  # the lists name images of xBD too, which are not in the download
    _ids = [tile for tile in list_ids(DATASET_DIR + "train.txt", "{}_{}.tif") if tile in _there]  # .tif in all versions
    train_ids, val_ids, _ = split_by_share(_ids, train=0.95, val=0.05, test=0, seed=1)
    test_ids = [tile for tile in list_ids(DATASET_DIR + "val.txt", "{}_{}.tif") if tile in _there]  # test.txt has no labels
    MEAN_PIXEL = {"rgb": None}

elif DATASET == "dubai":  # convert_gt.py data/dubai/masks/ --from-color --unknown ignore --out data/dubai/gts_numpy/
    DATASET_DIR = BASE_DIR + "dubai/"
    folders = {"rgb": "images/tile{}_{:03d}.jpg", "labels": "gts_numpy/tile{}_{:03d}.png"}  # id: (tile, part)
    INPUTS = {"rgb": ["rgb"]}
    label_values = ["building", "land", "road", "vegetation", "water"]
    palette = {0: (60, 16, 152), 1: (132, 41, 246), 2: (110, 193, 228), 3: (254, 221, 58), 4: (226, 169, 41)}
    palette[5] = (155, 155, 155)  # unlabelled, and pixels in black, which is in no legend: not scored
    IGNORE_LABEL = None
    train_ids = [(tile, part) for tile in range(1, 6) for part in range(1, 10)]
    val_ids = [(6, part) for part in range(1, 10)]  # whole tiles: the parts of one are neighbours
    test_ids = [(7, part) for part in range(1, 10)]
    MEAN_PIXEL = {"rgb": None}

elif DATASET == "folder":  # your own images/NAME.tif, and masks/NAME.png in the palette's colours, made into labels by
    # convert_gt.py data/folder/masks/ --from-color --out data/folder/gts_numpy/ (grey masks: --from-index --foreground 255)
    DATASET_DIR = BASE_DIR + "folder/"
    folders = {"rgb": "images/{}.tif", "labels": "gts_numpy/{}.png"}  # a CSV list instead: read_list in tools/data/splits.py
    INPUTS = {"rgb": ["rgb"]}
    label_values = ["background", "building"]
    palette = {0: (0, 0, 0), 1: (255, 255, 255)}  # add 2 where some pixels are not scored
    IGNORE_LABEL = None
    GROUPS = None  # tiles that stay together in splits and folds: "place" (neighbours), or by names, such as r"(tile\d+)_"
    _ids = find_ids(DATASET_DIR, folders["rgb"])  # one or few large rasters: cut them into blocks first, tools/blocks.py
    _groups = group_tiles(_ids, GROUPS, DATASET_DIR, folders["rgb"])
    train_ids, val_ids, test_ids = split_by_share(_ids, train=0.7, val=0.15, test=0.15, seed=1, group=_groups)
    MEAN_PIXEL = {"rgb": None}

elif DATASET == "patch":  # ready-made Patch/train/images/NAME.tif with Patch/train/labels/NAME.tif, and so val and test
    DATASET_DIR = BASE_DIR + "Patch/"  # labels of colours or other numbers: make Patch/*/gts_numpy by convert_gt.py and name it
    folders = {"rgb": "{}/images/{}.tif", "labels": "{}/labels/{}.tif"}  # id: (split, name)
    INPUTS = {"rgb": ["rgb"]}
    label_values = ["background", "building"]
    palette = {0: (0, 0, 0), 1: (255, 255, 255)}
    IGNORE_LABEL = None
    _ids = find_ids(DATASET_DIR, folders["rgb"])
    train_ids, val_ids, test_ids = ([tile for tile in _ids if tile[0] == split] for split in ("train", "val", "test"))
    MEAN_PIXEL = {"rgb": None}

# ------------------------------------------------------------------------------------------- what the recipe says otherwise
# A line below that is commented out has the value that RECIPE gives it (tools/training/recipes.py), or else the one that stands
# here, the original's. Take the "# " away to set it yourself: what is written here wins. `training.py` prints all settings and
# where each came from.

# ------------------------------------------------------------------------------------------------------ extract_images.py
# patch_size = (128, 128)  # pixels, height and width; a multiple of 32 for SegNet
# step_size = (64, 64)  # pixels from one patch to the next; the original's 32 gives four times as many
# ROTATIONS = [0, 90]  # degrees that each patch is also turned by, exact; the upright one is always there, [] is fine
# FLIPS = [False, True]  # True adds the mirror image of each
TILE_MEMORY_MB = 512  # a tile that takes more memory is read in strips, by each core

# ------------------------------------------------------------------------------------------------------------ create_db.py
EMPTY_IF = {}  # by modality: whether a pixel lacks data if "all" (if not named) or "any" of its bands hold 0 or the brightest
BGR = True  # bands are stored in reversed order, as Caffe has them; nets see them so
SEED = 1  # of all that is drawn: initial weights, the order of the patches, the shares of a grid's cells

# ------------------------------------------------------------------------------------------------------------- training.py
# NITER = None  # iterations of a run that does not give --niter
NORMALISATION = {}  # by modality: "mean" (taken off; if none is named), "standard", "percentile" (2 to 98), "imagenet"
# NET = "segnet"  # a file of nets/, without .py; `python -m nets` lists what else there is
# NET_OPTIONS = {}  # further arguments of the net's function, such as {"planes": (16, 32, 64, 64, 64)}
# INIT_MODEL = None  # weights to begin with: "efficientnet_lite0" (pip's), "vgg16", "resnet50" ... (torchvision's), or a file
# INIT_MODEL = {"irrg": "a.safetensors", "composite": "b.safetensors"} joins trained nets as branches, for NET = "segnet_rc".
INIT_PARTIAL = False  # True: layers of the net that those weights do not fit begin at random, where they would be an error
INIT_UNITS = None  # what those weights were trained on, if their source is not known: {"mean": (123.7, ...), "std": (...)}
# BATCH_SIZE = 10  # patches in an iteration
# BASE_LR = 0.01  # learning rate before the policy and the multipliers
# LR_POLICY = {"name": "step", "step_iterations": 25000, "gamma": 0.1}  # others in tools/solver/schedules.py
# SOLVER = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}  # or {"name": "adamw", "weight_decay": 0.01}, rate 0.001
# SOLVER = "solver.prototxt" takes from it: BASE_LR, LR_POLICY, SOLVER, ITER_SIZE, GRADIENT_CLIP, SNAPSHOT_EVERY, NITER.
MULTIPLIERS = {}  # of rate and decay by layer, {"conv1_*": {"lr": 0.1, "decay": 0}}, instead of Caffe's; or by part: "encoder"
# (layers that came from INIT_MODEL) and "head" (the others): {"encoder": {"lr": 1}, "head": {"lr": 10}}
# PRETRAINED_RATE = 0.5  # of layers that came from INIT_MODEL, as a share of the rate of the others
FREEZE_ITERATIONS = 0  # the first iterations, in which layers that came from INIT_MODEL stand still; None: for good
# FROZEN_NORM = False  # True: batch norms that came with INIT_MODEL's statistics keep them; quicker, better for small batches
# LOSS = "ce"  # ce, focal, dice, jaccard, tversky, lovasz, or a sum such as "ce + 0.5 dice"
CLASS_WEIGHTS = "none"  # in ce and focal, by the database's labels: "none", "inverse", "median", "effective"; or (1, 0.5, ...)
ITER_SIZE = 1  # batches whose gradients are averaged in an iteration; batch 10 x 2 learns as batch 20, in half the memory
GRADIENT_CLIP = None  # norm that all gradients together are cut down to, such as 1.0; None: as they are
# EMA_DECAY = None  # validation and snapshots take a moving average of the weights that keeps so much of itself, such as 0.999
# AUGMENTATION = {}  # of patches while training: {operation: its numbers}, see tools/data/operations.py; the original: none
# SNAPSHOT_EVERY = 2000  # iterations; None: four times in a run
SNAPSHOT_FORMATS = ["safetensors"]  # and "caffemodel": net_iter_N.caffemodel beside it, for Caffe
KEEP_SNAPSHOTS = None  # how many of the newest snapshots stay; None: all. The best weights stay always
# VAL_EVERY = None  # iterations; scores on the validation tiles, and net_best_* if they are best; None: at each snapshot
PATIENCE = None  # validations without a better one (by loss, mean IoU or both) after which training stops; None: it goes on
SYNC_BATCH_NORM = False  # under torchrun: batch norm over the whole batch, not over each process's share; slower
WORKERS = None  # processes that read the database, 0: the training process itself; None: as many as suit the device

# ------------------------------------------------------------------------------------------------------------ inference.py
# test_patch_size = (128, 128)  # pixels, height and width of the sliding window; "auto": up to 512, what suits net and tile
# test_step_size = 0.5  # to the next window, as a share of it, in pixels (64, 64), or "auto": overlapping by what the net needs
BLEND = "cosine"  # how windows that overlap are averaged: by their middle more ("cosine", "linear", "gaussian") or "flat"
TEST_BATCH_SIZE = None  # windows that go through the net together; None: as many as the device wants and can hold
# TTA = None  # looks at each window that are averaged: "flips" (4), "d4" (8, turned too), "scales" (3); so many times the time
MEMORY_MB = 256  # for the sums of overlapping probabilities; if a tile is so wide that it takes more, it is done in strips
THRESHOLD = None  # of two classes: the probability above which the second is chosen, such as 0.3; None: the likelier one
