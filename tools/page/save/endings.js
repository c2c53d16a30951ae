// How each kind of saved file is called after the image's name.

export const ENDINGS = {
  labels: "_labels.tif",
  colours: "_colours.png",
  confidence: "_confidence.tif",
  polygons: "_polygons.geojson",
  table: "_classes.csv",
};
