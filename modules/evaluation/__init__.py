"""Scores of predicted frames, of the latent variable, and of sampled futures."""
