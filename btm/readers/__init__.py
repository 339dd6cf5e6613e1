"""Readers: questions, inference and links, answered on top of a forest (Jack the Reader,
arXiv 1806.08727).

A reader takes questions (`setting.QASetting`) and gives answers (`setting.Answer`). It is three
modules, joined by named, typed ports (`ports`) that are checked before anything is loaded:

    questions → input module → model module → output module → answers

`modules` has their base classes, `registry` their names, `reader` joins them. `ground` reads text
by what a reader stands on: one model, or the experts of a forest mixed by the domain posterior.
`folder` saves and loads a trained reader, `train` trains one and goes on after a kill, `steps` has
the steps of `btm read`. `links/` is link prediction. docs/readers.md shows how to add one.
"""
