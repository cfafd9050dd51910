"""Look up several values with one tool and hand them in, in order, with another."""
