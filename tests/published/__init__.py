"""Published segmentation heads written naively, step by step in float64: oracles for the heads."""
