"""Triton kernels, one file each; every one has its plain counterpart, which is its oracle."""
