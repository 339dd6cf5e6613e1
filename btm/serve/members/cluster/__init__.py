"""Members on the machines of a Ray cluster: Petals (arXiv 2209.01188) with experts as the unit.

connect    join a cluster, or begin one of this machine alone
placement  which machine holds which model, watched by a thread
member     the member that the engine asks: its replicas, and the tokens that each text has had
replica    the actor: a model in a process of its own
wire       log-probabilities in 32, 16 or 8 bits
"""
