"""Choices of a config by name."""

from typing import Any

from flexivit_jax.attention import (
  blockwise,
  dense,
  fused,
  local,
  query_sharded,
  ring,
  ulysses,
)
from flexivit_jax.attention.distribution import Distribution
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.config import writer_specs
from flexivit_jax.core import patch_size, resolution, token_drop
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.pixels import (
  colour,
  preprocessing,
  rand_augment,
  transforms,
)
from flexivit_jax.data.sources import (
  arrays,
  digits,
  image_folder,
  listed_images,
  source,
  tfds,
)
from flexivit_jax.devices import parameter_sharding
from flexivit_jax.models import sizes
from flexivit_jax.nn import adaln, encoder, pooling
from flexivit_jax.nn.positions import (
  learned_grid,
  position,
  relative,
  rotary,
  row_column,
  waves,
)
from flexivit_jax.nn.stems import early_convolutions, resnet, stem
from flexivit_jax.tasks import (
  classification,
  diffusion,
  distillation,
  losses,
  masked_autoencoding,
  noise,
  task,
)
from flexivit_jax.training import mixing, optimizer, schedules

# From a type hint to {name: class, or ready-made object}.
CHOICES: dict[Any, dict[str, Any]] = {
  encoder.Size: {**sizes.SIZES, "custom": encoder.Size},
  position.Position: {
    "none": position.NoPosition,
    "learned_grid": learned_grid.LearnedGrid,
    "sincos2d": waves.SinCos2D,
    "fourier": waves.Fourier,
    "row_column": row_column.RowColumn,
    "joint_table": row_column.JointTable,
    "rotary": rotary.Rotary,
    "relative": relative.Relative,
  },
  pooling.Pool: {
    "gap": pooling.Gap,
    "tok": pooling.ClassToken,
    "map": pooling.Map,
  },
  stem.Stem: {
    "none": stem.NoStem,
    "resnet": resnet.ResNet,
    "early_convolutions": early_convolutions.EarlyConvolutions,
  },
  adaln.Conditioning: {
    "none": adaln.Unconditioned,
    "adaln_zero": adaln.AdaLNZero,
  },
  Kernel: {
    "dense": dense.Dense,
    "blockwise": blockwise.Blockwise,
    "fused": fused.Fused,
  },
  Distribution: {
    "local": local.Local,
    "query_sharded": query_sharded.QuerySharded,
    "ring": ring.Ring,
    "ulysses": ulysses.Ulysses,
  },
  task.Task: {
    "supervised": classification.Supervised,
    "distill": distillation.Distill,
    "mae": masked_autoencoding.MaskedAutoencoder,
    "diffusion": diffusion.Diffusion,
  },
  noise.NoiseSchedule: {
    "linear": noise.LinearNoise,
    "cosine": noise.CosineNoise,
  },
  noise.Prediction: {
    "noise": noise.PredictNoise,
    "velocity": noise.PredictVelocity,
    "data": noise.PredictData,
  },
  losses.Loss: {
    "softmax": losses.SoftmaxLoss,
    "sigmoid": losses.SigmoidLoss,
  },
  distillation.Distance: {
    "kl": distillation.KL,
    "hard": distillation.Hard,
    "l2": distillation.L2,
  },
  mixing.Mix: {"mixup": mixing.Mixup, "cutmix": mixing.CutMix},
  patch_size.PatchSizePolicy: {
    "fixed": patch_size.FixedPatchSize,
    "sampled": patch_size.SampledPatchSize,
    "scheduled": patch_size.ScheduledPatchSize,
    "budget": patch_size.BudgetPatchSize,
  },
  resolution.Resolution: {
    "square": resolution.Square,
    "pix2struct": resolution.Pix2Struct,
    "naflex": resolution.NaFlex,
    "native": resolution.Native,
    "sampled": resolution.Sampled,
  },
  token_drop.TokenDrop: {
    "none": token_drop.NoDrop,
    "constant": token_drop.Constant,
    "beta": token_drop.Beta,
    "by_resolution": token_drop.ByResolution,
    "scheduled": token_drop.Scheduled,
  },
  source.SourceSpec: {
    "digits": digits.Digits,
    "digits_canvas": digits.DigitsCanvas,
    "image_folder": image_folder.ImageFolder,
    "listed_images": listed_images.ListedImages,
    "tfds": tfds.Tfds,
    "arrays": arrays.Arrays,
  },
  preprocessing.Mode: {
    "antialias": preprocessing.Antialias,
    "bv_compat": preprocessing.BvCompat,
  },
  transforms.Transform: {
    "resize": transforms.Resize,
    "resize_crop": transforms.ResizeCrop,
    "central_crop": transforms.CentralCrop,
    "pad_square": transforms.PadSquare,
    "inception_crop": transforms.InceptionCrop,
    "flip": transforms.Flip,
    "affine": transforms.Affine,
    "color_jitter": colour.ColorJitter,
    "grayscale": colour.Grayscale,
    "rand_augment": rand_augment.RandAugment,
  },
  bad_images.OnBadImage: {
    "error": bad_images.Error,
    "skip": bad_images.Skip,
  },
  optimizer.Optimizer: {
    "adamw": optimizer.AdamW,
    "sgd": optimizer.Sgd,
    "adafactor": optimizer.Adafactor,
    "retired": optimizer.Retired,
  },
  schedules.Schedule: {
    "cosine": schedules.Cosine,
    "linear": schedules.Linear,
    "rsqrt": schedules.Rsqrt,
    "constant": schedules.Constant,
  },
  parameter_sharding.ParameterSharding: {
    "replicated": parameter_sharding.Replicated,
    "fsdp": parameter_sharding.Fsdp,
  },
  writer_specs.WriterSpec: {
    "tensorboard": writer_specs.TensorBoard,
    "wandb": writer_specs.WeightsAndBiases,
  },
}
