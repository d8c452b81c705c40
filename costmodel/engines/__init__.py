"""Serving engines as source trees: where their dispatch rule stands, and what it says.

=====================  ====================================================================
:mod:`.tree`           open an installed package, a checkout or a wheel; find engine and version
:mod:`.places`         which function of which file holds the rule, per engine and op
:mod:`.reading`        read the rule out of a function by following its assignments and branches
:mod:`.unit_checks`    units that do not fit: KB against bytes, elements against bytes, < or <=
=====================  ====================================================================

Sources are parsed, never imported or run.
"""
