"""What each choice of a config may be."""

from typing import Any

from flexivit_jax.attention import (
  blockwise,
  dense,
  local,
  query_sharded,
  ring,
  triton,
  ulysses,
)
from flexivit_jax.attention.distribution import Distribution
from flexivit_jax.attention.kernels import Kernel
from flexivit_jax.core import diffusion as noise
from flexivit_jax.core import patch_size, resolution, token_drop
from flexivit_jax.data import (
  arrays,
  augment,
  bad_images,
  colour,
  digits_canvas,
  listed_images,
  modes,
  rand_augment,
  sources,
  tfds,
)
from flexivit_jax.nn import (
  conditioning,
  early_convolutions,
  pooling,
  positions,
  relations,
  resnet,
  stems,
  tables,
  vit,
)
from flexivit_jax.tasks import (
  diffusion,
  distill,
  losses,
  masked_autoencoder,
  supervised,
  task,
)
from flexivit_jax.training import (
  mixing,
  optimizer,
  parameter_sharding,
  schedules,
  writers,
)

# What each choice may be: a type hint to {name: class, or ready-made object}.
CHOICES: dict[Any, dict[str, Any]] = {
  vit.Size: {**vit.SIZES, "custom": vit.Size},
  positions.Position: {
    "none": positions.NoPosition,
    "learned_grid": positions.LearnedGrid,
    "sincos2d": positions.SinCos2D,
    "fourier": positions.Fourier,
    "row_column": tables.RowColumn,
    "joint_table": tables.JointTable,
    "rotary": relations.Rotary,
    "relative": relations.Relative,
  },
  pooling.Pool: {
    "gap": pooling.Gap,
    "tok": pooling.ClassToken,
    "map": pooling.Map,
  },
  stems.Stem: {
    "none": stems.NoStem,
    "resnet": resnet.ResNet,
    "early_convolutions": early_convolutions.EarlyConvolutions,
  },
  conditioning.Conditioning: {
    "none": conditioning.Unconditioned,
    "adaln_zero": conditioning.AdaLNZero,
  },
  Kernel: {
    "dense": dense.Dense,
    "blockwise": blockwise.Blockwise,
    "triton": triton.Triton,
  },
  Distribution: {
    "local": local.Local,
    "query_sharded": query_sharded.QuerySharded,
    "ring": ring.Ring,
    "ulysses": ulysses.Ulysses,
  },
  task.Task: {
    "supervised": supervised.Supervised,
    "distill": distill.Distill,
    "mae": masked_autoencoder.MaskedAutoencoder,
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
  distill.Distance: {
    "kl": distill.KL,
    "hard": distill.Hard,
    "l2": distill.L2,
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
  sources.SourceSpec: {
    "digits": sources.Digits,
    "digits_canvas": digits_canvas.DigitsCanvas,
    "image_folder": sources.ImageFolder,
    "listed_images": listed_images.ListedImages,
    "tfds": tfds.Tfds,
    "arrays": arrays.Arrays,
  },
  modes.Mode: {
    "antialias": modes.Antialias,
    "bv_compat": modes.BvCompat,
  },
  augment.Transform: {
    "resize": augment.Resize,
    "resize_crop": augment.ResizeCrop,
    "central_crop": augment.CentralCrop,
    "pad_square": augment.PadSquare,
    "inception_crop": augment.InceptionCrop,
    "flip": augment.Flip,
    "affine": augment.Affine,
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
    "optax": optimizer.Optax,
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
  writers.WriterSpec: {
    "tensorboard": writers.TensorBoard,
    "wandb": writers.WeightsAndBiases,
  },
}
