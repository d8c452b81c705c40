"""Learning the rule of one machine: measure, calibrate, choose the next shape, stop, hand over.

``knowledge`` (what is known of a machine after some shapes), ``choice`` (which shape next, and
which to judge by), ``tuner`` (the loop, as one question a time; :mod:`~costmodel.decide.stopping`
says when enough is known), ``journal`` (each step on disk), ``ranks`` (the loop on ranks that run
the op), ``judgement`` (the rule on shapes that it did not learn from), ``handover`` (what is
attached to a pull request).
"""
