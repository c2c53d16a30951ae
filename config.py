"""The one file to edit. Every script reads it; `--config other.py` reads another one of the same form.

Adding a dataset: copy one of the blocks below, give it a name, and set DATASET to that name.
Names that begin with an underscore are yours; any other name that no script knows is refused.
"""

# ------------------------------------------------------------------------------------------------------ which data, where
DATASET = "demo"  # one of the blocks below
BASE_DIR = "data/"  # everything that the scripts make lies below this folder
FOLDER_SUFFIX = ""  # added to the folders of patches, databases and snapshots, e.g. "_fold1", to keep experiments apart

bands = {}  # names of a modality's bands, where INPUTS picks some: {"rgbir": ["red", "green", "blue", "ir"]}
# ISPRS's classes serve three of the blocks. A label beyond the last class name (6, black) is a pixel that is not scored.
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

if DATASET == "demo":  # made by `python -m tools.demo`: Vaihingen's layout, 512x512 pixels a tile
    DATASET_DIR = BASE_DIR + "demo/"
    folders = {  # modality: file of a tile below DATASET_DIR, {} stands for the tile's id
        "irrg": "top/top_mosaic_09cm_area{}.tif",
        "dsm": "dsm/dsm_09cm_matching_area{}.tif",
        "ndsm": "ndsm/dsm_09cm_matching_area{}_normalized.jpg",
        "labels": "gts_numpy/top_mosaic_09cm_area{}.tif",  # made from gts_for_participants by convert_gt.py
        "labels_eroded": "gts_eroded_numpy/top_mosaic_09cm_area{}_noBoundary.tif",  # optional; scores only
    }
    train_ids = [1, 3, 5, 7, 11, 13]
    val_ids = [15]  # set aside from the training tiles: scores while training
    test_ids = [32, 34]  # never seen in training
    MEAN_PIXEL = {"irrg": None}  # per modality, in the file's band order and units; None: computed from the training tiles

elif DATASET == "vaihingen":
    DATASET_DIR = BASE_DIR + "vaihingen/"
    folders = {
        "irrg": "top/top_mosaic_09cm_area{}.tif",
        "dsm": "dsm/dsm_09cm_matching_area{}.tif",
        "ndsm": "ndsm/dsm_09cm_matching_area{}_normalized.jpg",
        "labels": "gts_numpy/top_mosaic_09cm_area{}.tif",
        "labels_eroded": "gts_eroded_numpy/top_mosaic_09cm_area{}_noBoundary.tif",
    }
    train_ids = [1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28]  # the original's scripts, less area 30
    val_ids = [30]
    test_ids = [32, 34, 37]
    MEAN_PIXEL = {"irrg": (120.90, 81.93, 81.29)}  # IR, R, G: the original's (81.29, 81.93, 120.90) is in BGR order

elif DATASET == "potsdam":
    DATASET_DIR = BASE_DIR + "potsdam/"
    folders = {
        "rgb": "2_Ortho_RGB/top_potsdam_{}_{}_RGB.tif",
        "irrg": "3_Ortho_IRRG/top_potsdam_{}_{}_IRRG.tif",
        "rgbir": "4_Ortho_RGBIR/top_potsdam_{}_{}_RGBIR.tif",
        "dsm": "1_DSM/dsm_potsdam_{:02d}_{:02d}.tif",
        "ndsm": "1_DSM_normalisation/dsm_potsdam_{:02d}_{:02d}_normalized_lastools.jpg",
        "labels": "gts_numpy/top_potsdam_{}_{}_label.tif",
        "labels_eroded": "gts_eroded_numpy/top_potsdam_{}_{}_label_noBoundary.tif",
    }
    train_ids = [(3, 12), (6, 8), (4, 11), (3, 10), (7, 9), (4, 10), (6, 10), (7, 7), (5, 10), (7, 11), (2, 12), (6, 9)]
    train_ids += [(5, 11), (6, 12), (7, 8), (2, 10), (6, 7), (6, 11)]  # the original's, less (4, 12)
    val_ids = [(4, 12)]
    test_ids = [(2, 11), (7, 12), (3, 11), (5, 12), (7, 10)]
    MEAN_PIXEL = {"irrg": None}

# ------------------------------------------------------------------------------------------------------ extract_images.py
INPUTS = {"irrg": ["irrg"]}  # inputs of the net: name -> the modalities, or named bands of them, that it stacks in this order
patch_size = (128, 128)  # pixels, height and width; a multiple of 32 for SegNet
step_size = (64, 64)  # pixels from one patch to the next; the original's 32 gives four times as many
ROTATIONS = [0, 90]  # degrees, multiples of 90, exact; each one multiplies the number of training patches
FLIPS = [False, True]  # True adds the mirror image of each
TILE_MEMORY_MB = 512  # a tile that takes more memory is read in strips, by each core

# ------------------------------------------------------------------------------------------------------------ create_db.py
BGR = True  # bands are stored in reversed order, as Caffe has them; nets see them so

# ------------------------------------------------------------------------------------------------------------- training.py
NORMALISATION = {}  # by modality: "mean" (taken off; where none is named), "standard", "percentile" (2 to 98), "imagenet"
NET = "segnet_slim"  # a file of nets/, without .py
INIT_MODEL = None  # weights to begin with: "vgg16" (torchvision's), or a file
BATCH_SIZE = 10  # patches in an iteration
BASE_LR = 0.05  # learning rate before the policy and the multipliers; the original: 0.01
LR_POLICY = {"name": "step", "step_iterations": 1200, "gamma": 0.1}  # or {"name": "fixed"}; the original: 25000 iterations
SOLVER = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
SNAPSHOT_EVERY = 500  # iterations between snapshots, each with scores on the validation tiles
SEED = 1  # of the initial weights and of the order of the patches
WORKERS = 1  # processes that read the database; 4 keep a large GPU busy, 0 reads in the training process

# ------------------------------------------------------------------------------------------------------------ inference.py
test_patch_size = (128, 128)  # pixels, height and width of the sliding window
test_step_size = (64, 64)  # pixels from one window to the next; smaller is slower and a little better
TEST_BATCH_SIZE = 16  # windows that go through the net together
