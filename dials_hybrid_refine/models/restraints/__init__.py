"""Restraints on the crystal structure: terms beside the data that hold what is known of it."""
