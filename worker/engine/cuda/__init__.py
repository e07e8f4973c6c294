"""The fast device path: Triton kernels, fused layers and captured CUDA graphs around any transformers decoder."""
