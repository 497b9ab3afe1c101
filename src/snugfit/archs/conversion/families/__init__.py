"""Rows of model classes, a module a family; rows.py lists them all."""
