"""What the builders of text suites share: packages, text out of their files, documents and
splits.
"""
