"""Models: token ids in, token ids and log-probabilities out, and chat models over them."""
