"""NaViT on a folder of images: PATH/train/CLASS/*.jpg, PATH/test/CLASS/*.

Images keep their aspect ratio and are packed. Name the folder, and the model's
size if it is not S, after a colon:

  python train.py --config configs/navit_folder.py:PATH --workdir runs/navit
  python evaluate.py --checkpoint runs/navit --budgets 64,128,256

Resolution, packing and token drop follow NaViT (arXiv:2307.06304): sides of 64
to 256 px, biased low, rows of 256 patches of 16 px, a share of patches left out
with mean 0.5. No other augmentation, as there. The optimiser is a usual one for
supervised training. One image in ten is left out to choose the checkpoint.
A dataset made by `flexivit prepare`, which is faster to read:
--config.train.source.name=tfds --config.train.source.dataset=NAME, and so for
validation and test.
"""

from ml_collections import ConfigDict


def get_config(path_and_size: str):
  path, _, size = path_and_size.partition(",")

  def folder(split):
    return dict(name="image_folder", path=path, split=split)

  budget = dict(name="naflex", max_patches=256)
  return ConfigDict(
    dict(
      model=dict(
        size=size or "S",
        kernel_hw=(16, 16),
        position=dict(name="row_column", size=(64, 64)),
        pool="map",
        qk_norm=True,
        qkv_bias=False,
      ),
      patch_size=dict(name="fixed", size=16),
      train=dict(
        source=folder("train[10%:]"),
        resolution=dict(
          name="sampled",
          low=64,
          high=256,
          distribution="truncated_normal",
          mean=-0.5,
        ),
      ),
      validation=dict(source=folder("train[:10%]"), resolution=budget),
      test=dict(source=folder("test"), resolution=budget),
      packing=dict(
        row_length=256,
        max_images=16,
        open_rows=128,
        drop=dict(name="beta", mean=0.5, max=0.9),
      ),
      optimizer=dict(
        name="adamw",
        learning_rate=8e-4,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=500),
      ),
      batch_size=64,
      eval_batch_size=64,
      total_epochs=90,
      eval_every=1000,
      save_every=1000,
      threads=8,
    )
  )
