"""Masked autoencoding of the embedded digits, at patch sizes drawn per step.

A FlexiViT encoder learns from 1,097 images without their labels in a few
minutes on two CPU cores: it sees a quarter of the patches of 4, 6, 8 or 12 px,
and a light decoder answers the pixels of the others.

  python train.py --config configs/mae_digits.py --workdir runs/mae
  flexivit few-shot --checkpoint runs/mae --patch_sizes 4,8 \
      --penalty 1,4,16,64,256,1024

`runs/mae/pictures` shows what it answers. The encoder then begins another run,
the main job say; its decoder stays behind:

  python train.py --config configs/flexivit_digits.py --workdir runs/tuned \
      --config.init_from.checkpoint=runs/mae \
      --config.init_from.dont_load="('head/.*',)"
  python evaluate.py --checkpoint runs/tuned

`python train.py --config configs/mae_digits.py:smoke --workdir runs/smoke`
tries it in seconds. Mask ratio and target are MAE's (arXiv:2111.06377), the
rest is of configs/flexivit_digits.py, whose model this is.

Expected: a relative loss below 0.5 at every size, where constants for each
place reach 0.64 (docs/results.md). For 1,500 steps it learns little more than
these.
"""

from configs._recipe import config_of


def get_config(argument: str = ""):
  return config_of(
    argument,
    model=dict(
      size=dict(name="custom", width=64, depth=4, mlp_dim=256, num_heads=4),
      kernel_hw=(32, 32),
      position=dict(name="learned_grid", size=(7, 7)),
      pool="gap",
    ),
    task=dict(
      name="mae",
      mask_ratio=0.75,
      target="patch",
      decoder=dict(
        size=dict(name="custom", width=64, depth=2, mlp_dim=256, num_heads=4),
        position="sincos2d",
      ),
    ),
    patch_size=dict(name="sampled", choices=(4, 6, 8, 12)),
    # No transforms: the masks are what varies.
    train=dict(source=dict(name="digits", split="train[200:]")),
    validation=dict(source=dict(name="digits", split="train[:200]")),
    test=dict(source=dict(name="digits", split="test")),
    optimizer=dict(
      name="adamw",
      learning_rate=2e-3,
      weight_decay=0.05,
      b2=0.95,
      clip_norm=1.0,
      schedule=dict(name="cosine", warmup_steps=100),
    ),
    batch_size=64,
    eval_batch_size=100,
    total_steps=6000,
    eval_every=1000,
    save_every=1000,
    log_every=100,
  )
