"""Rasters too large to be held: seen block by block, averaged as one picture, labelled by block."""
