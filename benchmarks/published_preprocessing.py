"""Whether bv_compat equals the published preprocessing, on photographs.

  python -m benchmarks.published_preprocessing --photos photos.tar \\
      --golden big_vision_preprocess.npz

The golden file holds `names` of the photographs, and for both pipelines of the
published models the SHA-256 sum of each one's pixels as TensorFlow made them,
`sha256/resize272_crop240` and `sha256/resize_small256_crop224`. What is close
is counted too: it must equal none. Writes
benchmarks/results/published_preprocessing.json.
"""

import argparse
import hashlib
import json
import pathlib
import tarfile

import numpy as np

from benchmarks import machine, markdown
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.data.pixels import transforms as transforms_lib

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "published_preprocessing.json"

PIPELINES = {
  "resize272_crop240": (
    transforms_lib.Resize((272, 272)),
    transforms_lib.CentralCrop((240, 240)),
  ),
  "resize_small256_crop224": (transforms_lib.ResizeCrop(256, (224, 224)),),
}

# What decodes and what resizes.
WAYS = {
  "bv_compat": (preprocessing.BvCompat(), preprocessing.BvCompat()),
  "Pillow's decoder, bv_compat's resize": (
    preprocessing.ANTIALIAS,
    preprocessing.BvCompat(),
  ),
  "bv_compat's decoder, antialias": (
    preprocessing.BvCompat(),
    preprocessing.ANTIALIAS,
  ),
  "antialias": (preprocessing.ANTIALIAS, preprocessing.ANTIALIAS),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--photos", required=True, help="a tar of the files")
  parser.add_argument("--golden", required=True, help="an npz of the sums")
  args = parser.parse_args()
  with np.load(args.golden, allow_pickle=False) as file:
    names = file["names"].tolist()
    sums = {key: file[f"sha256/{key}"].tolist() for key in PIPELINES}
  equal = {way: dict.fromkeys(PIPELINES, 0) for way in WAYS}
  with tarfile.open(args.photos) as tar:
    for i, name in enumerate(names):
      encoded = tar.extractfile(name).read()
      for way, (decoder, resizer) in WAYS.items():
        pixels = decoder.decode(encoded, name)
        for key, transforms in PIPELINES.items():
          image = pixels
          for transform in transforms:
            if isinstance(transform, transforms_lib.RESIZING):
              image = transform(image, None, resizer)
            else:
              image = transform(image, None)
          found = hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
          equal[way][key] += found == sums[key][i]
  results = {
    "machine": machine.describe(),
    "photographs": len(names),
    "equal": equal,
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  rows = [
    (way, *(f"{count} of {len(names)}" for count in counts.values()))
    for way, counts in equal.items()
  ]
  print(markdown.table(("equal in every bit", *PIPELINES), rows))


if __name__ == "__main__":
  main()
