"""Worlds that are rendered, with exact labels."""
