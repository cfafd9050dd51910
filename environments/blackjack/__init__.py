"""One hand of blackjack."""
