"""FlexiViT-L on ImageNet-1k, distilled from DeiT III (arXiv:2212.08013).

  python train.py --config configs/flexivit_l_i1k.py:DATA --workdir runs/flexi_l
  python evaluate.py --checkpoint runs/flexi_l --patch_sizes 8:48

DATA is a folder PATH with PATH/train/CLASS/*.JPEG and PATH/validation/CLASS, or
tfds:imagenet2012 (docs/data.md); `smoke` tries the recipe on digits, in
seconds. The student starts from its teacher's weights, patch embedding and
positions resized. The teacher, deit3_l_384_1k, is downloaded from where it was
published; another file follows a comma: DATA,deit3.npz.

Values of big_vision's config proj/flexivit/i1k_deit3_distill.py, compared by
test_recipes.py: KL divergence at temperature 1, mixup of two images with
alpha 1, crops and flips, batch 1,024, Adam with a first moment in bfloat16,
learning rate 1e-4, decay 1e-5, 5,000 steps of warm-up, cosine, 90 epochs.
Otherwise than there: products in bfloat16, and crops as docs/data.md says.

Expected of the command above, 90 epochs: no accuracy is published. At 16 px
timm measured the published models at 85.28 % after 300 epochs
(--config.total_epochs=300), 85.53 after 600, 85.65 after 1,200. Not run
here.
"""

from configs import _flexivit_i1k


def get_config(data: str):
  return _flexivit_i1k.get_config(data, "L")
