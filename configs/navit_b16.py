"""NaViT-B/16 (arXiv:2307.06304): any resolution and aspect ratio, packed.

  python train.py --config configs/navit_b16.py:DATA --workdir runs/navit_b16
  python evaluate.py --checkpoint runs/navit_b16 --budgets 64,128,256

DATA is a folder PATH with PATH/train/CLASS/* and PATH/validation/CLASS, or
tfds:NAME (docs/data.md); `smoke` tries the recipe on digits, in seconds.

The paper's settings for classification: sides from a truncated normal
distribution biased low on 64 to 384 px (its best), rows of 256 patches, token
drop from a Beta distribution, factorised positions, attention pooling, norms of
queries and keys, sigmoid loss, reciprocal square root schedule with warm-up and
cooldown, peak 8e-4, decay 0.03 in the body and 3.0 in the head, no crops and no
flips. It does not say the timescale, the warm-up or the mean and spread of the
drop that it ended with: 10,000 steps, and a half, here.

Expected: the paper trains on JFT-4B, which is not public; for ImageNet-1k alone
it has no number. Not run here.
"""

from configs._recipe import config_of, source, split_argument


def get_config(argument: str):
  (where,) = split_argument(argument)
  budget = dict(name="naflex", max_patches=256)
  return config_of(
    where,
    model=dict(
      size="B",
      kernel_hw=(16, 16),
      position=dict(name="row_column", size=(64, 64)),
      pool="map",
      qk_norm=True,
      qkv_bias=False,
      head_bias=-10.0,
      dtype="bfloat16",
    ),
    patch_size=dict(name="fixed", size=16),
    task=dict(name="supervised", loss="sigmoid"),
    train=dict(
      source=source(where, "train[1%:]"),
      resolution=dict(
        name="sampled",
        low=64,
        high=384,
        distribution="truncated_normal",
        mean=-0.5,
      ),
    ),
    validation=dict(source=source(where, "train[:1%]"), resolution=budget),
    test=dict(source=source(where, "validation"), resolution=budget),
    packing=dict(
      row_length=256,
      max_images=16,
      open_rows=128,
      drop=dict(name="beta", mean=0.5, max=0.9),
    ),
    optimizer=dict(
      name="adamw",
      learning_rate=8e-4,
      weight_decay=0.03,
      groups=(dict(pattern="head/kernel", weight_decay=3.0),),
      clip_norm=1.0,
      mu_dtype="bfloat16",
      schedule=dict(
        name="rsqrt",
        warmup_steps=10_000,
        timescale=10_000,
        cooldown_steps=50_000,
      ),
    ),
    batch_size=1024,
    eval_batch_size=256,
    total_steps=200_000,
    eval_every=5000,
    save_every=1000,
    threads=8,
  )
