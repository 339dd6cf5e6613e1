"""Link prediction: which entity stands at the other end of a relation (ConvE, arXiv 1707.01476).

A graph is a folder with train.txt, valid.txt and test.txt, a line a triple: subject, relation,
object, with tabs between. Each triple asks two questions, ``s p ?`` and ``? p o``; the second is
the first of the reciprocal relation. Every entity is scored at once (1-N).
"""
