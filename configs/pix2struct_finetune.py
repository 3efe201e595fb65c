"""A Pix2Struct encoder fine-tuned on images of any shape (arXiv:2210.03347).

  python train.py --config configs/pix2struct_finetune.py:DATA,CHECKPOINT \
      --workdir runs/screens
  python evaluate.py --checkpoint runs/screens --budgets 1024,2048,4096

DATA is a folder PATH with PATH/train/CLASS/* and PATH/validation/CLASS, or
tfds:NAME; CHECKPOINT a directory of Hugging Face's Pix2Struct, whose vision
encoder is read (docs/checkpoints.md). `smoke` tries the recipe on digits, from
random parameters, in seconds.

Its variable resolution: each image is scaled to fill 2,048 patches of 16 px,
its aspect ratio kept but for rounding, and standardised by itself. Optimiser of
its fine-tuning: Adafactor, peak 1e-2, 1,000 steps of warm-up, cosine, 10,000
steps, batch 32. Otherwise than there: a head of classes on the mean of the
tokens in the place of its text decoder, and optax's Adafactor.

Expected: no published number classifies; variable resolution came before
stretched and padded images in the paper's ablation, as here at 16 patches
(docs/results.md). Not run here.
"""

from configs._recipe import SMOKE, config_of, source, split_argument


def get_config(argument: str):
  where, checkpoint = split_argument(argument, "")
  budget = dict(name="pix2struct", max_patches=64 if where == SMOKE else 2048)
  begin = {}
  if where != SMOKE:
    if not checkpoint:
      raise ValueError(
        "name the checkpoint after the data: DATA,DIRECTORY of a Pix2Struct"
      )
    begin = dict(init_from=dict(checkpoint=checkpoint, dont_load=("head/.*",)))
  return config_of(
    where,
    model=dict(
      size=dict(name="custom", width=768, depth=12, mlp_dim=2048, num_heads=12),
      kernel_hw=(16, 16),
      position=dict(name="row_column", size=(4096, 4096), first=1),
      pool="gap",
      standardize=True,
      rms_norm=True,
      gated_mlp=True,
      attention_scale=1.0,
      qkv_bias=False,
      proj_bias=False,
      dtype="bfloat16",
    ),
    patch_size=dict(name="fixed", size=16),
    **begin,
    train=dict(source=source(where, "train[10%:]"), resolution=budget),
    validation=dict(source=source(where, "train[:10%]"), resolution=budget),
    test=dict(source=source(where, "validation"), resolution=budget),
    packing=dict(row_length=budget["max_patches"], max_images=2, open_rows=8),
    optimizer=dict(
      name="adafactor",
      multiply_by_parameter_scale=False,
      learning_rate=1e-2,
      schedule=dict(name="cosine", warmup_steps=1000),
    ),
    batch_size=32,
    eval_batch_size=32,
    total_steps=10_000,
    eval_every=1000,
    save_every=500,
    threads=8,
  )
