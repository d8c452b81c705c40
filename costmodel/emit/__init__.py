"""Write a dispatch rule where it belongs.

===================  ======================================================================
:mod:`.engine`       a rule in SGLang's, vLLM's or AITER's own idiom: snippet or patch
:mod:`.adapt`        what the rule becomes there: the engine's guards and unclaimed sizes stay
:mod:`.edits`        where the source changes: the leaves of a branch on TP, or one assignment
:mod:`.expression`   conditions as Python source
:mod:`.comment`      the comment that names calibration, evidence and how to reproduce
:mod:`.templates`    the shapes of the engines, for snippets without a source
:mod:`.boundary`     the test file: one element below, at and above every cutoff
:mod:`.stand_in`     runs a function cut out of an engine without torch or GPU
:mod:`.environment`  AITER's environment variables
:mod:`.listing`      JSON and table
:mod:`.diff`         unified diffs
===================  ======================================================================
"""
