"""A diffusion transformer on the embedded digits, at their own 8 x 8 pixels.

python train.py --config configs/dit_digits.py --workdir runs/dit
python -m flexivit_jax.cli.sample --checkpoint runs/dit --output samples
"""

from ml_collections import ConfigDict


def get_config(patch_size: str = "2"):
  def digits(split):
    return dict(source=dict(name="digits", side=8, split=split))

  return ConfigDict(
    dict(
      model=dict(
        size=dict(name="custom", width=96, depth=4, mlp_dim=384, num_heads=4),
        kernel_hw=(2, 2),
        position="sincos2d",
        pool="gap",
        conditioning="adaln_zero",
      ),
      patch_size=dict(name="fixed", size=int(patch_size)),
      task=dict(
        name="diffusion",
        schedule="cosine",
        predicts="velocity",
        sampler=dict(steps=50, guidance=2.0),
      ),
      train=digits("train[200:]"),
      validation=digits("train[:200]"),
      test=digits("test"),
      optimizer=dict(
        name="adamw",
        learning_rate=1e-3,
        b2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=100),
      ),
      ema=0.999,
      batch_size=128,
      eval_batch_size=200,
      total_steps=5000,
      eval_every=1000,
      save_every=1000,
      log_every=100,
    )
  )
