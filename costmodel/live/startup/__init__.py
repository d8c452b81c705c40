"""Learning a rule inside an engine's start-up, on its own ranks, in a few seconds.

``tune`` (what an engine calls), ``offered`` and ``communicator`` (what the engine gives to be
timed), ``learning`` (the first rank's loop), ``agreement`` (ranks that come to one answer or to
none), ``rule`` (the answer), ``cache`` (the answer kept in the run-time table).
"""
