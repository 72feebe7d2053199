"""Run exported bundles without PyTorch: sessions, prompts, tiles, the pipeline, files."""
