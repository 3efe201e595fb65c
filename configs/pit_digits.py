"""The pixel transformer on the embedded digits: every pixel is a token.

At the digits' own 8 px, 64 tokens; other sides after a colon, 16 px are 256:

  python train.py --config configs/pit_digits.py --workdir runs/pit
  python train.py --config configs/pit_digits.py:16 --workdir runs/pit16
  python evaluate.py --checkpoint runs/pit

Positions are learned, one for each pixel, as in arXiv:2406.09415; others by
--config.model.position=sincos2d, or none, which leaves a model that sees a set
of pixels, whatever their order.
"""

from ml_collections import ConfigDict

from configs._recipe import pixels


def get_config(side: str = "8"):
  side = pixels("the side of the images", side)

  def digits(split):
    return dict(name="digits", split=split, side=side)

  return ConfigDict(
    dict(
      model=dict(
        size=dict(name="custom", width=64, depth=4, mlp_dim=256, num_heads=4),
        kernel_hw=(1, 1),
        position=dict(name="learned_grid", size=(side, side)),
        pool="gap",
      ),
      patch_size=dict(name="fixed", size=1),
      train=dict(source=digits("train[200:]")),
      validation=dict(source=digits("train[:200]")),
      test=dict(source=digits("test")),
      optimizer=dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=100),
      ),
      batch_size=64,
      eval_batch_size=100,
      total_steps=1500,
      eval_every=500,
      save_every=500,
      log_every=100,
    )
  )
