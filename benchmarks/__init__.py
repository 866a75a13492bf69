"""How fast medjax trains and predicts, by itself or beside other frameworks; `medjax bench` runs it.

runner   what is asked for: chooses cases, starts a process for each network, prints the table, writes the JSON
worker   one network in one process: compile, check against the peer, measure
measure  the clock: repeats in turn, medians, spread
cases    the networks and their sizes
networks the medjax side of a case; peers/ has the other
peer     a peer's process, and how to talk with it
system   peak memory of a process, and how busy others keep the machine
"""
