"""Files written whole or not at all, folders exchanged at once, digests remembered."""
