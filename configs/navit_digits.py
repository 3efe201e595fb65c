"""NaViT on the embedded digits, each on a canvas of its own size and aspect.

Images are resized to a resolution of 12 to 32 px that is drawn whenever they
are seen, lose some of their patches, and are packed into rows:

  python train.py --config configs/navit_digits.py --workdir runs/navit
  python evaluate.py --checkpoint runs/navit --budgets 9,16,36,64

As in NaViT (arXiv:2307.06304): queries and keys are normalised, attention
pooling, a table of positions for rows and one for columns, and a share of
patches left out that is drawn from a Beta distribution.
"""

from ml_collections import ConfigDict


def get_config():
  def digits(split):
    return dict(name="digits_canvas", split=split)

  # At the sizes of the canvases themselves, 4 px patches are 36 on average.
  budget = dict(name="naflex", max_patches=36)
  return ConfigDict(
    dict(
      model=dict(
        size=dict(name="custom", width=64, depth=4, mlp_dim=256, num_heads=4),
        kernel_hw=(4, 4),
        # Longer than any side of an image of 64 patches, but for 1 x 64.
        position=dict(name="row_column", size=(24, 24)),
        pool="map",
        qk_norm=True,
        qkv_bias=False,
      ),
      patch_size=dict(name="fixed", size=4),
      train=dict(
        source=digits("train[200:]"),
        resolution=dict(name="sampled", low=12, high=32),
      ),
      validation=dict(source=digits("train[:200]"), resolution=budget),
      test=dict(source=digits("test"), resolution=budget),
      packing=dict(
        row_length=128,
        max_images=12,
        open_rows=32,
        drop=dict(name="beta", mean=0.2, max=0.5),
      ),
      optimizer=dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=100),
      ),
      batch_size=16,
      eval_batch_size=16,
      total_steps=1500,
      eval_every=500,
      save_every=500,
      log_every=100,
    )
  )
