"""Linear CKA: how alike two representations of the same images are.

Kornblith and others, arXiv:1905.00414. All in float64 and over all images at
once: the minibatch estimators are biased for few images.
"""

import numpy as np

# A representation that varies by no more than this share of its length is
# constant up to rounding of float32, and its similarity undefined.
_CONSTANT = 1e-6


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
  """|Yc^T Xc|^2 / (|Xc^T Xc| |Yc^T Yc|) in Frobenius norms, c for centred.

  Args:
    x, y: `[n, p]` and `[n, q]`, features of the same n images.

  Returns:
    0 to 1: 1 where one is the other turned and scaled. For p = q features that
    are independent of each other about p / n where n is much larger, and
    towards 1 where p is. NaN where one is constant.

  Raises:
    ValueError: not the same number of images, or fewer than 2.
  """
  return float(between(gram(x)[None], gram(y)[None])[0, 0])


def gram(x: np.ndarray) -> np.ndarray:
  """Centred products of images, of norm 1: CKA is a product of two of them.

  Args:
    x: `[n, p]`, or `[n, ...]`, which is flattened.

  Returns:
    f64 `[n, n]`; NaN where x is constant.

  Raises:
    ValueError: fewer than 2 images.
  """
  x = np.asarray(x, np.float64).reshape(len(x), -1)
  if len(x) < 2:
    raise ValueError(f"CKA of {len(x)} images: give at least 2")
  centred = x - x.mean(axis=0, keepdims=True)
  products = centred @ centred.T
  if np.sqrt(np.trace(products)) <= _CONSTANT * np.linalg.norm(x):
    return np.full_like(products, np.nan)
  return products / np.linalg.norm(products)


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """CKA of every representation with every other.

  Args:
    a, b: f64 `[i, n, n]` and `[j, n, n]`: `gram` of each, of the same images.

  Returns:
    f64 `[i, j]`.

  Raises:
    ValueError: not the same number of images.
  """
  if a.shape[1:] != b.shape[1:]:
    raise ValueError(
      f"CKA of {a.shape[1]} with {b.shape[1]} images: give the same images"
    )
  return a.reshape(len(a), -1) @ b.reshape(len(b), -1).T
