"""mdrt behind a Triton inference server: the repository that it loads, and what runs inside it."""
