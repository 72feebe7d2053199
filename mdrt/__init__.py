"""mdrt: MaskDiffusion segmentation with a frozen Stable Diffusion model, without PyTorch."""
