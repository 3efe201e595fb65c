"""The pixel transformer as a diffusion transformer: each pixel is a token.

  flexivit prepare tfds:cifar10
  python train.py --config configs/pit_dit_cifar.py:tfds:cifar10 \\
    --workdir runs/pit_dit
  python train.py --config configs/pit_dit_cifar.py:tfds:cifar10,16 \\
    --workdir runs/pit_dit_16
  flexivit sample --checkpoint runs/pit_dit --output samples

configs/dit_cifar.py, with the same arguments, `smoke` among them, at a patch
size of 1: four times as many tokens, 1,024 at 32 px and 256 at 16 px.

arXiv:2406.09415 compares 1 with 2 in generation on latents of ImageNet, in a
changed recipe of DiT that its summaries do not give; so this one is ours, and
all but the patch size is as in dit_cifar: its positions too are sines, where
those of the paper's classifiers are learned.

Expected: nobody here has trained it to its end, so nothing is claimed.
"""

from configs import dit_cifar


def get_config(data_side_and_size: str):
  return dit_cifar.get_config(data_side_and_size, patch_size=1)
