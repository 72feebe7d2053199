"""What can be said of the GPU path without a GPU: work counted, kernels compiled."""
