"""Writes what pages take from elsewhere: excerpts of examples, tables, and the reference."""
