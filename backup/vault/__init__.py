"""The vault, format 1: where every object lies and what the documents say.

Pure but for loading and saving through a `Destination`; knows nothing of git's wire or of forges.
"""
