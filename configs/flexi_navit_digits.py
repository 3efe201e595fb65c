"""Mixed patch sizes in packed rows: NaViT's packing with FlexiViT's patches.

Every image of navit_digits draws a patch size of its own, 3, 4, 6 or 8 px, and
shares a row with images of others. One program serves every mixture; afterwards
one checkpoint serves every size:

  python train.py --config configs/flexi_navit_digits.py --workdir runs/mixed
  python evaluate.py --checkpoint runs/mixed --budgets 16,36,64

With `--config.patch_size='{"name": "budget", "choices": (3, 4, 6, 8),
"max_tokens": 36}'` each image takes the smallest patches that leave it 36.
"""

from configs import navit_digits


def get_config():
  config = navit_digits.get_config()
  config.patch_size = dict(name="sampled", choices=(3, 4, 6, 8))
  config.model.kernel_hw = (8, 8)
  config.total_steps = 2500
  return config
