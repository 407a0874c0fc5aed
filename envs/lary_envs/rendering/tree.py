"""The tree of geometry of a GPU's frames, built anew for each: fitting it can leave old boxes."""

from __future__ import annotations

from typing import Any

import warp as wp

# mypy: disable-error-code="index, arg-type, no-untyped-def"

# Warp sums up the bounds of all boxes in blocks of this many threads, and wrongly where the last block is not
# full (its issue 1601): boxes are filled up to a multiple of it.
_BLOCK = 256


@wp.kernel
def _group_roots(tree: wp.uint64, roots: wp.array[int]):
    world = wp.tid()
    roots[world] = wp.bvh_get_group_root(tree, world)


class FreshTree(wp.Bvh):
    """A tree over the boxes of all worlds that is built anew wherever MuJoCo Warp asks to have it fitted.

    The kernel of Warp 1.19 that fits a tree on CUDA reads the boxes of a node's children through pointers
    that let it use what its multiprocessor had read before. A box can stay that of the frame before, and
    what jumps through the air, as the goal of a new episode, is then missing from the picture. The kernel
    that builds a tree reads them anew (`volatile`, in warp/native/bvh.cu). Building reuses the tree's memory,
    so a recorded graph may hold it; a world's root can become another and is looked up each time.

    Args:
        lower: Lower corners of the boxes, `[n]` of vec3; `upper` likewise.
        group: World of each box, int `[n]`.
        roots: Receives the root of each world, int `[w]`.
    """

    def __init__(self, lower: Any, upper: Any, group: Any, roots: Any) -> None:
        super().__init__(lower, upper, groups=group)  # of the kind that this device can build in place
        self._roots = roots

    @classmethod
    def into(cls, context: Any, num_worlds: int) -> None:
        """Replace the tree of a context of `num_worlds` worlds, where launches go to its device."""
        count = len(context.lower)
        full = -(-count // _BLOCK) * _BLOCK
        lower, upper = (wp.zeros(full, dtype=wp.vec3) for _ in range(2))
        group = wp.full(full, num_worlds, dtype=int)  # what fills up belongs to a world that nobody looks at
        for old, new in ((context.lower, lower), (context.upper, upper), (context.group, group)):
            wp.copy(new, old, count=count)
        context.lower, context.upper, context.group = lower, upper, group
        context.bvh = cls(lower, upper, group, context.group_root)
        context.bvh_id = context.bvh.id
        context.bvh.refit()

    def refit(self) -> None:
        """Build the tree anew and look up the worlds' roots."""
        self.rebuild()
        wp.launch(_group_roots, dim=len(self._roots), inputs=[self.id], outputs=[self._roots])
