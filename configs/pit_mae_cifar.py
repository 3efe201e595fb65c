"""Masked autoencoding with the pixel transformer: every pixel is a token.

  python train.py --config configs/pit_mae_cifar.py:DATA --workdir runs/mae
  python train.py --config configs/finetune.py:DATA,runs/mae,1,32 \
      --workdir runs/tuned
  python evaluate.py --checkpoint runs/tuned

DATA is a folder PATH with PATH/train/CLASS/* and PATH/test/CLASS, or
tfds:cifar10 (docs/data.md), whose labels are not read; `smoke` tries the recipe
on digits, in seconds. After the data: the patch size, 1, and the side of the
images, 32: `tfds:cifar10,2` is the baseline of patches, `tfds:cifar10,1,16` has
256 tokens.

After arXiv:2406.09415, whose text was not at hand: 75 % hidden, as a review of
it says; Ti with 12 heads, class token, learned positions without a prior of two
dimensions. Its decoder, target, schedule and length are not known here. Taken
are MAE's (configs/mae_cifar.py), and targets normalised per image: a pixel is
its own mean, so that a target per patch would be 0. Patches of 2 px have the
same target, to be compared.

Expected: fine-tuned on CIFAR-100, 86.0 % with pixels and 85.7 with patches of
2 px, as reviews report the paper. Not run here.
"""

from configs import mae_cifar
from configs._recipe import SMOKE, pixels, split_argument


def get_config(argument: str):
  where, patch, side = split_argument(argument, "1", "32")
  patch = pixels("the patch size", patch)
  side = 8 if where == SMOKE else pixels("the side of the images", side)
  image_hw = (side, side)
  config = mae_cifar.get_config(f"{where},{patch}")
  if where != SMOKE:
    del config.model.size
    config.model.size = dict(name="Ti", num_heads=12)
  config.model.kernel_hw = (patch, patch)
  config.model.position.size = (side // patch, side // patch)
  config.model.pool = "tok"
  config.task.target = "image"
  crop, flip = config.train.transforms
  config.train.transforms = (crop | dict(size=image_hw), flip)
  center = (dict(name="resize", size=image_hw),)
  config.validation.transforms = config.test.transforms = center
  return config
