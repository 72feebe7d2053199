"""Many callers at once: a page, an HTTP API, and the protocols of labelling tools."""
