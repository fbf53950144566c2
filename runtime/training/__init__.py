"""Training and sampling: one loop for every loss, one renderer, one way to be killed and go on."""
