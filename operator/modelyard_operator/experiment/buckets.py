"""Which of the 10000 buckets belongs to which variant, and how the map changes with the smallest number of moves.

A user's bucket is `xxh64("SALT:KEY") % 10000` and never changes; what changes is the owner of a bucket. A bucket map
lists the owners as segments in bucket order, so it can be written one to one as Envoy's weighted clusters, which are
searched in list order and may name a cluster more than once.

Comparisons between variants stay valid only if as few users as possible see two variants. So a new map is not laid out
afresh: it is the old one with just the surplus of the shrinking variants handed to the growing ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

__all__ = ["TOTAL", "BucketMap", "Segment", "from_json", "next_map", "normalize", "share_moved", "sizes", "to_json"]

TOTAL = 10_000


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of `size` neighbouring buckets (at least 1) that one variant owns."""

    variant: str
    size: int


BucketMap = tuple[Segment, ...]
"""The owners of buckets 0 to 9999, in bucket order; neighbouring segments have different owners."""


def normalize(weights: Mapping[str, int]) -> dict[str, int]:
    """Bring relative weights to a total of 10000 by the largest-remainder method.

    Args:
        weights: variant -> relative weight, a non-negative integer of any size.

    Returns:
        variant -> number of buckets, by name. Every variant is in it, those of weight 0 with 0; a positive weight below
        one bucket may also end up with 0. Equal remainders are served in the order of the names, so the result depends
        on nothing but the weights.

    Raises:
        ValueError: no weights, a negative or non-integer weight, or nothing but zeros.

    """
    if not weights:
        raise ValueError("there are no weights: give each variant one")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise ValueError(f"the weight of {name!r} is {weight!r}: give an integer that is 0 or more")
    total = sum(weights.values())
    if total == 0:
        raise ValueError("all weights are 0: give at least one variant a positive weight")
    shares = {name: weights[name] * TOTAL // total for name in sorted(weights)}
    by_remainder = sorted(shares, key=lambda name: (-(weights[name] * TOTAL % total), name))
    for name in by_remainder[: TOTAL - sum(shares.values())]:
        shares[name] += 1
    return shares


def sizes(bucket_map: Iterable[Segment]) -> dict[str, int]:
    """Return variant -> number of buckets, for the variants that have any."""
    result: dict[str, int] = {}
    for segment in bucket_map:
        result[segment.variant] = result.get(segment.variant, 0) + segment.size
    return result


def next_map(previous: Sequence[Segment], weights: Mapping[str, int]) -> BucketMap:
    """Return the bucket map for new weights that moves the fewest users.

    Exactly the sum of the decreases moves, always from a variant that shrinks (or is gone) to one that grows: nobody
    leaves a variant that keeps its size or grows. Among such maps it goes for few segments, step by step: first what
    lets segments merge, then growth at a common edge.

    The first map starts from everything on the heaviest variant, with the others cut out of it: so each of them has a
    common edge with the variant that will most likely shrink in their favour.

    Args:
        previous: the map in use; empty for the first one.
        weights: variant -> relative weight, as for `normalize`.

    Raises:
        ValueError: as `normalize`, or `previous` has not a total of 10000.

    """
    target = normalize(weights)
    if not previous:
        previous = (Segment(min(target, key=lambda name: (-target[name], name)), TOTAL),)
    segments = list(_checked(previous))
    have = sizes(segments)
    delta = {name: target.get(name, 0) - have.get(name, 0) for name in sorted({*target, *have})}
    while any(delta.values()):
        move = _best_move(segments, delta)
        segments = _apply(segments, move)
        delta[move.giver] += move.size
        delta[move.taker] -= move.size
    return tuple(segments)


def share_moved(a: Sequence[Segment], b: Sequence[Segment]) -> float:
    """Return the share (0 to 1) of buckets, and so about of users, that have another owner in `b` than in `a`."""
    cuts = sorted({*accumulate(s.size for s in a), *accumulate(s.size for s in b)})
    owners_a, owners_b = _owners_at(a, cuts), _owners_at(b, cuts)
    widths = (end - start for start, end in zip([0, *cuts], cuts, strict=False))
    moved = sum(width for width, x, y in zip(widths, owners_a, owners_b, strict=True) if x != y)
    return moved / TOTAL


def to_json(bucket_map: Sequence[Segment]) -> str:
    """Return the map as a compact JSON list of `[variant, size]` pairs.

    Raises:
        ValueError: the total is not 10000, or a segment is empty.

    """
    return json.dumps([[s.variant, s.size] for s in _checked(bucket_map)], separators=(",", ":"))


def from_json(text: str) -> BucketMap:
    """Read what `to_json` wrote.

    Raises:
        ValueError: it is not a list of `[variant, size]` pairs of positive sizes with a total of 10000.

    """
    try:
        segments = [Segment(variant, size) for variant, size in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"a bucket map is a JSON list of [variant, size] pairs: {error}") from error
    return _checked(segments)


@dataclass(frozen=True, slots=True)
class _Move:
    """`size` buckets of segment `index`, from `offset` in it, go from `giver` to `taker`."""

    index: int
    offset: int
    size: int
    giver: str
    taker: str


def _checked(segments: Sequence[Segment]) -> BucketMap:
    """Return the segments with equal neighbours merged, or raise ValueError."""
    for segment in segments:
        if not isinstance(segment.variant, str) or type(segment.size) is not int or segment.size < 1:
            raise ValueError(f"not a segment of a bucket map: {segment!r}")
    total = sum(segment.size for segment in segments)
    if total != TOTAL:
        raise ValueError(f"the bucket map has a total of {total}, not {TOTAL}")
    return _merged(segments)


def _merged(segments: Iterable[Segment]) -> BucketMap:
    return tuple(Segment(name, sum(s.size for s in run)) for name, run in groupby(segments, key=lambda s: s.variant))


def _owners_at(segments: Sequence[Segment], cuts: Sequence[int]) -> list[str]:
    """Return the owner of the last bucket before each cut."""
    result, end, remaining = [], 0, iter(segments)
    owner = ""
    for cut in cuts:
        while end < cut:
            segment = next(remaining)
            owner, end = segment.variant, end + segment.size
        result.append(owner)
    return result


def _best_move(segments: Sequence[Segment], delta: Mapping[str, int]) -> _Move:
    """Return the move that leaves the fewest segments; equal ones are told apart by their place and names alone."""
    owned = {segment.variant for segment in segments}
    takers = [name for name, missing in delta.items() if missing > 0]
    candidates: list[tuple[tuple[int, bool, bool, int, str, int], _Move]] = []
    for index, segment in enumerate(segments):
        surplus = -delta[segment.variant]
        if surplus <= 0:
            continue
        left = segments[index - 1].variant if index else None
        right = segments[index + 1].variant if index + 1 < len(segments) else None
        for taker in takers:
            size = min(surplus, delta[taker], segment.size)
            spare = segment.size - size
            joins = (left == taker) + (right == taker)
            if not spare:
                options = [(0, -joins)]
            else:
                # A taker without any bucket goes to the map's end or into the middle of a segment, so that its
                # neighbours on both sides keep their edges with the giver.
                options = [(0, 1 - (left == taker)), (spare, 1 - (right == taker))]
                if taker not in owned and left is not None and right is not None:
                    options = [(spare // 2, 2)] if spare > 1 else options
            for offset, growth in options:
                at_end = (left is None and offset == 0) or (right is None and offset == spare)
                # Whole segments first and small ones before large ones: that is what keeps the map short.
                in_size_order = -segment.size if spare else segment.size
                rank = (growth, not joins, not at_end, in_size_order, taker, -index * TOTAL - offset)
                candidates.append((rank, _Move(index, offset, size, segment.variant, taker)))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _apply(segments: Sequence[Segment], move: _Move) -> list[Segment]:
    whole = segments[move.index].size
    parts = (
        Segment(move.giver, move.offset),
        Segment(move.taker, move.size),
        Segment(move.giver, whole - move.offset - move.size),
    )
    changed = [*segments[: move.index], *(part for part in parts if part.size), *segments[move.index + 1 :]]
    return list(_merged(changed))
