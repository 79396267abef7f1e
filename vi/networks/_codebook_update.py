"""Codebooks that learn without a gradient: running means, restarts, and a start from clusters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vi._check import refusal, require_count, require_key
from vi._known import is_known
from vi.networks._codebook import nearest_code, require_indices, require_vectors, within
from vi.types import Key


class Codebook(NamedTuple):
    """Codes as running means, and the weight of each.

    Attributes:
        codes: ``[M, D]``.
        counts: ``[M]``, the running mean of how many vectors of a batch each code stands for;
            zeros for codes that the first vectors are to replace.
    """

    codes: Float[Array, "M D"]
    counts: Float[Array, " M"]


def update_codebook(
    codebook: Codebook,
    vectors: Float[Array, "*shape D"],
    indices: Int[Array, "*shape"],
    *,
    decay: float | Float[Array, ""],
) -> Codebook:
    r"""Move each code towards the mean of the vectors it stands for: an exponential moving average.

    .. math:: N_m \leftarrow \gamma N_m + (1 - \gamma) n_m, \qquad
              s_m \leftarrow \gamma s_m + (1 - \gamma) \sum_{j: i_j = m} v_j, \qquad
              e_m = s_m / N_m,

    where :math:`n_m` vectors of the batch have index m. The sums are kept as :math:`N_m e_m`, so
    that the quotient does not go to 0 / 0 for a code that is out of use: it stays exactly where it
    is. Counts that begin at 0 leave no trace of the first codes. With a decay of 0 it is one step
    of k-means. No derivative flows through it.

    Args:
        codebook: The state before.
        vectors: The batch, ``[*shape, D]``.
        indices: The code of each, ``[*shape]``, as ``vector_quantise`` found them; vectors with an
            index outside 0 .. M - 1 are left out.
        decay: :math:`\gamma`, in [0, 1); a traced scalar will do.

    Returns:
        The state after; types as before.

    Raises:
        ValueError: Shapes that do not go together, or a decay outside [0, 1).

    Examples:
        >>> import jax.numpy as jnp, vi
        >>> start = vi.networks.Codebook(jnp.array([[0.0], [5.0]]), jnp.ones(2))
        >>> vectors = jnp.array([[1.0], [2.0], [3.0]])
        >>> new = vi.networks.update_codebook(start, vectors, jnp.array([0, 0, 0]), decay=0.5)
        >>> new.codes.tolist(), new.counts.tolist()
        ([[1.5], [5.0]], [2.0, 0.5])

    References:
        Van den Oord, Vinyals and Kavukcuoglu (2017), appendix A.1.
    """
    where = "update_codebook"
    codes, counts = _require_codebook(where, codebook)
    vectors, _ = require_vectors(where, vectors, codes)
    indices = require_indices(where, indices)
    if indices.shape != vectors.shape[:-1]:
        got = f"{list(indices.shape)} against {list(vectors.shape[:-1])}"
        remedy = "pass those of these very vectors"
        raise refusal(where, "indices", "have the shape of the vectors", got, remedy)
    if is_known(decay) and not 0 <= decay < 1:
        raise refusal(where, "decay", "be in [0, 1)", decay, "pass 0.99, say")
    vectors = jax.lax.stop_gradient(vectors.reshape(-1, codes.shape[1]))
    place = within(indices.reshape(-1), len(codes))
    wide = vectors.dtype
    found = jnp.zeros(counts.shape, wide).at[place].add(1.0, mode="drop")
    # of the distances, not of the vectors: a code whose vectors lie on it does not move
    offsets = jnp.zeros(codes.shape, wide).at[place].add(vectors - codes[place], mode="drop")
    counts_after = decay * counts + (1 - decay) * found
    weight = (1 - decay) / jnp.where(found > 0, counts_after, 1.0)
    moved = jnp.where(found[:, None] > 0, codes + weight[:, None] * offsets, codes)
    return Codebook(moved.astype(codes.dtype), counts_after.astype(counts.dtype))


def restart_dead_codes(
    key: Key, codebook: Codebook, vectors: Float[Array, "*shape D"], *, min_count: float
) -> Codebook:
    r"""Put codes that stand for too few vectors where some of this batch are.

    A code with :math:`N_m` below ``min_count`` moves to a vector of the batch, drawn without
    replacement, with a count of N / M, as if it had been an average one: it has the time until that
    has decayed. Other codes and their counts stay exactly as they are.

    Args:
        key: Which vectors.
        codebook: The state before, usually that which ``update_codebook`` returned.
        vectors: The batch, ``[*shape, D]``, of at least M vectors.
        min_count: In vectors per batch, below the batch's N / M: more cannot be had of every code.

    Returns:
        The state after; types as before.

    Raises:
        ValueError: Shapes that do not go together, fewer vectors than codes, a ``min_count`` that
            is not between 0 and N / M, or a key that is no typed key.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> worn = vi.networks.Codebook(jnp.array([[0.0], [5.0]]), jnp.array([4.0, 0.0]))
        >>> batch = jnp.full((4, 1), 7.0)
        >>> new = vi.networks.restart_dead_codes(jax.random.key(0), worn, batch, min_count=0.1)
        >>> new.codes.tolist(), new.counts.tolist()
        ([[0.0], [7.0]], [4.0, 2.0])

    References:
        Dhariwal et al. (2020), "Jukebox", section 3.1, "random restarts".
    """
    where = "restart_dead_codes"
    require_key(where, key)
    codes, counts = _require_codebook(where, codebook)
    vectors = _rows(where, vectors, len(codes), codes)
    fair = len(vectors) / len(codes)
    if is_known(min_count) and not 0 < min_count < fair:
        remedy = "pass a hundredth to a tenth of that"
        rule = f"be above 0 and below the batch's {fair:.3g} vectors per code"
        raise refusal(where, "min_count", rule, min_count, remedy)
    picks = jax.random.choice(key, len(vectors), (len(codes),), replace=False)
    dead = counts < min_count
    fresh = jax.lax.stop_gradient(vectors[picks]).astype(codes.dtype)
    return Codebook(jnp.where(dead[:, None], fresh, codes), jnp.where(dead, fair, counts))


def kmeans(
    key: Key, vectors: Float[Array, "*shape D"], num_codes: int, *, num_steps: int
) -> Codebook:
    r"""A codebook to start from: k-means++, then Lloyd's steps.

    Each next code is a vector drawn with probability proportional to its squared distance from the
    codes so far; then, ``num_steps`` times, each code becomes the mean of the vectors nearest to
    it. A code that loses all its vectors stays where it is. Of fewer than M different vectors some
    codes are equal. All N M distances at once: give it some thousands of vectors.

    Args:
        key: Which vectors to begin with.
        vectors: ``[*shape, D]``, at least M.
        num_codes: M.
        num_steps: Lloyd's steps; 0 for the vectors drawn.

    Returns:
        The codes and how many of ``vectors`` each stands for. Scale the counts to the batches to
        come: ``counts * batch / counts.sum()``.

    Raises:
        ValueError: Fewer vectors than codes, arrays that are not floating, or a wrong count.

    Examples:
        >>> import jax, jax.numpy as jnp, vi
        >>> vectors = jnp.array([[0.0], [1.0], [10.0], [11.0], [12.0]])
        >>> found = vi.networks.kmeans(jax.random.key(0), vectors, 2, num_steps=5)
        >>> sorted(found.codes[:, 0].tolist()), sorted(found.counts.tolist())
        ([0.5, 11.0], [2.0, 3.0])

    References:
        Arthur and Vassilvitskii (2007), section 2.2; Lloyd (1982).
    """
    where = "kmeans"
    require_key(where, key)
    num_codes = require_count(where, "num_codes", num_codes)
    num_steps = require_count(where, "num_steps", num_steps, least=0)
    vectors = jax.lax.stop_gradient(_rows(where, vectors, num_codes, None))
    codes = _spread_out(key, vectors, num_codes)

    def lloyd(codebook, _):
        nearest = nearest_code(vectors, codebook.codes)
        return update_codebook(codebook, vectors, nearest, decay=0.0), None

    start = Codebook(codes, jnp.zeros(num_codes, codes.dtype))
    moved, _ = jax.lax.scan(lloyd, start, length=num_steps)
    sizes = jnp.zeros(num_codes, codes.dtype).at[nearest_code(vectors, moved.codes)].add(1.0)
    return Codebook(moved.codes, sizes)


def _spread_out(key: Key, vectors: Array, num_codes: int) -> Array:
    """The vectors that k-means++ begins with, ``[M, D]``."""
    first_key, others_key = jax.random.split(key)

    def squared(code):
        return ((vectors - code) ** 2).sum(-1)

    def draw(distance, i):
        key = jax.random.fold_in(others_key, i)
        code = vectors[jax.random.categorical(key, jnp.log(distance))]
        return jnp.minimum(distance, squared(code)), code

    first = vectors[jax.random.randint(first_key, (), 0, len(vectors))]
    _, others = jax.lax.scan(draw, squared(first), jnp.arange(num_codes - 1))
    return jnp.concatenate([first[None], others])


def _rows(where: str, vectors, least: int, codes) -> Array:
    """The vectors as ``[N, D]``, at least ``least`` of them."""
    if codes is None:
        size = jnp.shape(vectors)[-1] if jnp.ndim(vectors) else 1
        codes = jnp.zeros((1, size))
    vectors, codes = require_vectors(where, vectors, codes)
    rows = vectors.reshape(-1, codes.shape[1])
    if len(rows) < least:
        remedy = "pass more vectors, or have fewer codes"
        raise refusal(where, "vectors", f"be at least the {least} codes", len(rows), remedy)
    return rows


def _require_codebook(where: str, codebook) -> tuple[Array, Array]:
    if not isinstance(codebook, Codebook):
        got, remedy = type(codebook).__name__, "pass vi.networks.Codebook(codes, counts)"
        raise refusal(where, "codebook", "be a Codebook", got, remedy)
    codes, counts = jnp.asarray(codebook.codes), jnp.asarray(codebook.counts)
    require_vectors(where, codes, codes)
    if min(codes.dtype.itemsize, counts.dtype.itemsize) < 4:
        got, remedy = f"{codes.dtype} and {counts.dtype}", "cast what is quantised, not the state"
        raise refusal(where, "codebook", "be at least float32, to move at all", got, remedy)
    if counts.shape != codes.shape[:1] or not jnp.issubdtype(counts.dtype, jnp.floating):
        got, rule = f"{counts.dtype} {list(counts.shape)}", f"be floats [{len(codes)}]"
        raise refusal(where, "codebook.counts", rule, got, "one per code, jnp.zeros at first")
    return codes, counts
