"""FlexiViT on the digits, distilled from a ViT with patches of 4 px.

The recipe of FlexiViT's ImageNet models (arXiv:2212.08013, section 3.6) at the
size of a desk: the student starts from the teacher's own weights, its patch
embedding and positions resized, and learns the teacher's probabilities at a
patch size drawn for each step. First the teacher, then the student:

  python train.py --config configs/vit_digits.py:4 --workdir runs/teacher
  python train.py --config configs/flexivit_digits_distill.py:runs/teacher \\
      --workdir runs/distilled
  python evaluate.py --checkpoint runs/distilled

Half a minute on two CPU cores after the teacher. Expected: docs/results.md.
"""

from configs import flexivit_digits


def get_config(teacher: str):
  config = flexivit_digits.get_config()
  config.task = dict(
    name="distill",
    teacher=dict(checkpoint=teacher, patch_size=4),
    distance=dict(name="kl", temperature=1.0),
  )
  config.init_from = dict(checkpoint=teacher)
  config.total_steps = 800
  config.eval_every = 400
  config.save_every = 400
  return config
