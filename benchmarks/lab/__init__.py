"""The laboratory: a world of scenes, training, claims, counts; of a checkout, not of the wheel."""
