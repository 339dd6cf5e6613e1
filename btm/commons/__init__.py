"""The commons: people who share no cluster grow one forest.

A maintainer's machine judges what strangers send (`gate`) and keeps a log of it (`audit`).
"""
