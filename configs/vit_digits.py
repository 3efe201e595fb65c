"""A plain ViT on the embedded digits: the baseline of flexivit_digits.

The same model, data, optimiser and number of steps at one patch size, 6 px (or
another: `--config configs/vit_digits.py:8`). Evaluated at other sizes, by
PI-resize, it loses what FlexiViT keeps:

  python train.py --config configs/vit_digits.py --workdir runs/vit
  python evaluate.py --checkpoint runs/vit --patch_sizes 4,6,8,12
"""

from configs import flexivit_digits
from configs._recipe import pixels


def get_config(patch_size: str = "6"):
  config = flexivit_digits.get_config()
  config.patch_size = dict(
    name="fixed", size=pixels("the patch size", patch_size)
  )
  return config
