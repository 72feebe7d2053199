"""The standing campaign: what anyone may do to mdrt's files and inputs, done on purpose."""
