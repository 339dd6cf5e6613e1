"""Discovery of domains: clusters of unlabelled documents, and the router that tells them apart.

Cluster-Branch-Train-Merge (c-BTM, arXiv 2303.14177) with balanced clusters (BASE layers, arXiv
2103.16716). `router` turns text into features and weights, `cluster` finds the centres, `assign`
balances, `corpus` writes a folder of domains that `btm prepare data=folder` takes. Needs the
extra `discover` (scikit-learn).
"""
