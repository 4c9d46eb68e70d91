"""Figures of uncertainty and agreement, which all rooms use: they know of nothing but numbers."""
