"""FlexiViT on the embedded handwritten digits: the main job.

One model for patch sizes 4, 6, 8 and 12 at 24 px, trained from scratch on
1,097 images in about a minute and a half on two CPU cores. The patch embedding
is stored at 32x32 and the positions at 7x7, as in the published FlexiViT:

  python train.py --config configs/flexivit_digits.py --workdir runs/flexivit
  python evaluate.py --checkpoint runs/flexivit --output runs/flexivit/eval

Expected on the 500 test images: at least 95 % at every size (docs/results.md).
"""

from ml_collections import ConfigDict


def get_config():
  affine = dict(name="affine", degrees=10.0, scale=(0.9, 1.1), shift=0.08)
  return ConfigDict(
    dict(
      model=dict(
        size=dict(name="custom", width=64, depth=4, mlp_dim=256, num_heads=4),
        kernel_hw=(32, 32),
        position=dict(name="learned_grid", size=(7, 7)),
        pool="gap",
      ),
      patch_size=dict(name="sampled", choices=(4, 6, 8, 12)),
      # 200 of the training images choose the checkpoint; the test split is
      # for evaluate.py alone.
      train=dict(
        source=dict(name="digits", split="train[200:]"), transforms=(affine,)
      ),
      validation=dict(source=dict(name="digits", split="train[:200]")),
      test=dict(source=dict(name="digits", split="test")),
      optimizer=dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=100),
      ),
      batch_size=64,
      eval_batch_size=100,
      total_steps=3000,
      eval_every=500,
      save_every=500,
      log_every=100,
    )
  )
