"""Predicted frames: splits that look at the frame before.

A layer of a predicted frame is coded in one of three ways. Where nothing in it differs from the
reference its message is empty. Where the reference was decoded to a coarser state than the layer's,
it is coded as in a key frame. Else, plane by plane, it says

1. whether any position changes in it that has followed the reference so far;
2. if so, of all these positions whether they leave the reference's path in this layer, in two
   checkerboard passes, with the odds of a small network (:mod:`.change_network`);
3. the splits of those that have left it, now or in a coarser layer, with networks of their own,
   which see the reference's colours too (:mod:`.contexts`). Where only one split can be what
   differs, it is known.

All other positions go where the reference goes. As a layer looks at the reference's nodes at its
own depth and coarser ones only, frames and references can be cut to any coarser state.
"""
