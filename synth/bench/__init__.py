"""How fast certified kernels run on the device there is, and next to what."""
