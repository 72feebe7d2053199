"""What a bundle is (the contract), and what of it is trusted: files are checked before use."""
