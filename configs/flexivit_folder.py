"""FlexiViT on a folder of images: PATH/train/CLASS/*.jpg, PATH/test/CLASS/*.

Name the folder, and the model's size if it is not S, after a colon:

  python train.py --config configs/flexivit_folder.py:PATH --workdir runs/mine
  python train.py --config configs/flexivit_folder.py:PATH,B --workdir runs/big
  python evaluate.py --checkpoint runs/mine --patch_sizes 8:48

FlexiViT's own sizes (arXiv:2212.08013): 240 px, ten patch sizes from 48 to 8,
patch embedding stored at 32x32, positions at 7x7; the recipe is a usual one for
supervised training, not the paper's distillation. One image in ten is left out
of training to choose the checkpoint. Other numbers of epochs, image sizes or
patch sizes: --config.total_epochs=30, --config.patch_size.choices=(16,24,48).
"""

from ml_collections import ConfigDict


def get_config(path_and_size: str):
  path, _, size = path_and_size.partition(",")
  image_hw = (240, 240)
  # Square, the aspect ratio not kept, as in the paper's evaluation.
  resize = dict(name="resize", size=image_hw)

  def folder(split):
    return dict(name="image_folder", path=path, split=split)

  return ConfigDict(
    dict(
      model=dict(
        size=size or "S",
        position=dict(name="learned_grid", size=(7, 7)),
        pool="tok",
        drop_path=0.1,
      ),
      patch_size=dict(
        name="sampled", choices=(48, 40, 30, 24, 20, 16, 15, 12, 10, 8)
      ),
      train=dict(
        source=folder("train[10%:]"),
        transforms=(
          dict(name="inception_crop", size=image_hw, area=(0.25, 1.0)),
          "flip",
        ),
      ),
      validation=dict(source=folder("train[:10%]"), transforms=(resize,)),
      test=dict(source=folder("test"), transforms=(resize,)),
      optimizer=dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=500),
      ),
      batch_size=256,
      eval_batch_size=256,
      total_epochs=90,
      eval_every=1000,
      save_every=1000,
      threads=8,
    )
  )
