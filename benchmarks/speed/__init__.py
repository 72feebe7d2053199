"""How fast, in how much memory, and how close: `mdrt bench`."""
