"""From a picture to what the networks show of it: tiles, prompts, passes, stitched taps."""
