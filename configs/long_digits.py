"""Long sequences in small: every pixel of a digit a token, shared by devices.

  JAX_NUM_CPU_DEVICES=8 python train.py --config configs/long_digits.py \\
    --workdir runs/long
  python evaluate.py --checkpoint runs/long

A pixel transformer on handwritten digits of 24 px, 576 tokens each. Of eight
devices, here simulated on a CPU, two groups of four share the images, and the
four of a group share the tokens of each: `mesh`. The same checkpoint is
evaluated on one device. After the colon: the distribution of attention,
query_sharded, ring or ulysses, and devices in a group:

  python train.py --config configs/long_digits.py:ring,8 --workdir runs/ring

All give the same steps, but for rounding (docs/long_sequences.md).
"""

from ml_collections import ConfigDict


def get_config(distribution_and_seq: str = "query_sharded,4"):
  distribution, _, seq = distribution_and_seq.partition(",")
  side = 24
  return ConfigDict(
    dict(
      model=dict(
        size=dict(name="custom", width=64, depth=3, mlp_dim=256, num_heads=4),
        kernel_hw=(1, 1),
        position=dict(name="learned_grid", size=(side, side)),
        pool="gap",
        kernel="blockwise",
        distribution=distribution,
      ),
      mesh=dict(seq=int(seq or 4)),
      patch_size=dict(name="fixed", size=1),
      train=dict(source=dict(name="digits", split="train[200:]", side=side)),
      validation=dict(
        source=dict(name="digits", split="train[:200]", side=side)
      ),
      test=dict(source=dict(name="digits", split="test", side=side)),
      optimizer=dict(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=50),
      ),
      batch_size=32,
      eval_batch_size=100,
      total_steps=300,
      eval_every=100,
      save_every=100,
      log_every=20,
    )
  )
