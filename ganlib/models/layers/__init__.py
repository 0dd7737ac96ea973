"""Blocks that two families use, and the three layers whose torch counterpart would break exactness: batch norm, dropout, initialisation."""
