"""A soak: a real host that runs for long under random requests, cancels, unloads, swapped files and two clients.

    requests.py      what is asked for: a finite set of random requests of every kind, each as a host's graph and as the engine is asked alone
    files.py         the models: small ones, each file in two variants, and how one is swapped for the other while the host runs
    alone.py         run by the host's own Python, without the host: a process for each request, which generates its pictures with the engine alone
    references.py    asks alone.py, and remembers
    rounds.py        the soak itself: rounds of one to three runs, each with one disturbance or none
    disturbances.py  what may happen meanwhile
    results.py       what came of a run: is its result the one alone, did its client hear of it and of no other
    figures.py       memory, handles, threads and times: how they are measured, and whether they grow
    probe.py         a pack of nodes that tells, inside the host, what is alive there

Needs Linux, as it reads /proc.
"""
