"""Trained models in forms that others open with nothing of this project installed: one module a form."""
