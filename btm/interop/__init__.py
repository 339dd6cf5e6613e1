"""Models from elsewhere, and for elsewhere; `formats` has a function for each format."""
