"""Dispatch rules as data.

===================  =========================================================================
:mod:`.condition`    what a rule may ask of a call: one thing each
:mod:`.algebra`      conditions joined, simplified, decided in part, and read from JSON
:mod:`.rule`         a rule: a condition under a name, and what runs where it does not hold
:mod:`.arms`         a rule of more arms than two: windows of sizes, one arm each
:mod:`.evidence`     what supports a rule's cutoffs, and where it comes from
:mod:`.catalogue`    the rules of the field by name, the two constant ones, rules from files
:mod:`.adapt`        what a rule becomes inside an engine: the kernel's limits, guards that stay
:mod:`.table`        the run-time table: sizes in a file that a patched engine reads
:mod:`.boundary`     the calls on which two rules would differ
===================  =========================================================================
"""

#: Engines whose current rule goes by the engine's name, and for which rules are emitted.
ENGINES = ("sglang", "vllm", "aiter")
