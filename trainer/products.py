"""Statistics of data in which several samples show the same product, such as 8 questions about each of 50 products.

Answers about one product are alike, so they say less than equally many answers about different products. Intervals that
count each sample fully would be too narrow. So the products are treated as clusters (J. N. K. Rao and A. J. Scott, A
simple method for the analysis of clustered binary data, Biometrics 48, 1992). With one sample per product, all results
are those of independent samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

from trainer.records import SampleLine


def product_of(sample: SampleLine) -> str:
    """The product of a sample: its name, or the file of the original if the source gives no name.

    In the parts of a `split`, samples without a name whose originals have the same bytes name one file.
    """
    return sample.product.strip() or sample.original.file


def repeated(products: Sequence[Hashable]) -> int | None:
    """Number of products if at least one has several samples; None if each sample has a product of its own."""
    count = len(set(products))
    return count if count < len(products) else None


def counted(samples: int, products: int | None) -> str:
    """Text for people: `400 samples of 50 products`, without the products if they are None; see `repeated`."""
    return f"{samples} samples" + (f" of {products} products" if products is not None else "")


def product_totals(values: Iterable[float], products: Iterable[Hashable]) -> list[float]:
    """Sum of the values of each product's samples, in the order in which the products first occur."""
    totals: dict[Hashable, float] = defaultdict(float)
    for value, product in zip(values, products, strict=True):
        totals[product] += value
    return list(totals.values())


def effective_samples(values: Sequence[float], products: Sequence[Hashable]) -> float:
    """Number of independent samples whose mean would be as certain as the mean of these values.

    With y the values, m their mean and C the number of products, the variance of m is estimated as
    V = C / (C - 1) · Σ_c (Σ_{i in c} (y_i - m))² / n² (Rao and Scott 1992). For k independent samples this
    estimate is s² / (k - 1), where s² is the mean of (y_i - m)², which is p(1 - p) for a proportion p. So
    k = 1 + s² / V, and at most n. With one sample per product, k = n. If the samples of each product agree and the
    products have equally many, k is the number of products.

    If all values are equal, or there is one product, V says nothing. Then the samples of a product count as agreeing:
    k = n² / Σ_c n_c² (L. Kish, Survey Sampling, 1965). With fewer than about 20 products V is itself uncertain.

    Args:
        values: one per sample, for example 1 for a right answer and 0 for a wrong one.
        products: the product of each sample.

    Returns:
        A number from 1 to n; 0 without samples.

    Raises:
        ValueError: the lengths differ.
    """
    if len(values) != len(products):
        raise ValueError(f"{len(values)} values for {len(products)} products")
    n, sizes = len(values), Counter(products)
    if len(sizes) == n:
        return float(n)
    if len(sizes) == 1 or min(values) == max(values):
        return n * n / sum(size * size for size in sizes.values())
    mean = sum(values) / n
    deviations = [value - mean for value in values]
    spread = sum(deviation * deviation for deviation in deviations) / n
    squares = sum(total * total for total in product_totals(deviations, products))
    variance = len(sizes) / (len(sizes) - 1) * squares / n**2
    return min(float(n), 1 + spread / variance) if variance else float(n)
