"""Models from elsewhere, and for elsewhere. `formats` has a function for each.

A model from outside is copied, looked at, then loaded: what is checked is what is kept, and
`transformers` never sees a file that was not chosen. Before it is loaded here it has been loaded
in a forked process with limits and an audit hook (docs/interop.md).
"""
