"""Flower as people know it, plus the ledger: runs, what failed, what waits, dead letters, and what to do about them.

One noun per file: a file's name says which pages it serves. Flower's own files are used as they are installed; where
its pages need a link to ours, `templates.py` says which line is put where.
"""
