"""Serving engines as source trees: reading the dispatch rule there, and writing one in.

==========================  ======================================================================
where it stands
:mod:`.call_sites`          which function of which file chooses, per engine and op
:mod:`.source`              open an installed package, a checkout or a wheel; engine and version
:mod:`.kernel_version`      which AITER a tree runs: installed, pinned, or by its release's image
:mod:`.module`              a parsed file: its functions, classes and constants
reading it
:mod:`.symbols`             what an expression can be: sizes in tokens, hidden size and element size
:mod:`.evaluation`          what an expression is, given the names in scope
:mod:`.execution`           follow a function's statements and branches with its input as a symbol
:mod:`.overrides`           settings that replace the rule: what the function does with each set
:mod:`.reader`              find the function that chooses and read its rule
:mod:`.limit`               where the limit stands that holds while no setting is set
:mod:`.unit_checks`         units that do not fit: KB against bytes, elements against bytes, < or <=
:mod:`.gates`               what decides beside the rule: flags, variables, methods, sizes
:mod:`.gate_lines`          the lines of a file that declare, read or hang on a setting
:mod:`.consulted`           which functions ask the run-time table, and the tables beside them
:mod:`.audit`               the rule in force, compared with another one, and scored
writing it
:mod:`.expression`          a condition as Python source, in the names that the function has
:mod:`.rewrite`             where a function's source changes so that it decides as a rule does
:mod:`.diff`                changes to a text, and unified diffs that ``patch`` takes
:mod:`.comment`             the comment that goes with an emitted rule
:mod:`.remarks`             comments and docstrings of the engine that a change makes untrue
:mod:`.applied`             the mark of an applied patch, and the original lines out of it
:mod:`.consumers`           who else chooses: copies of the rule, and users of the predicate
:mod:`.description`         what a maintainer asks before merging, before the diff
:mod:`.templates`           the shape of each engine's choice where no source is at hand
:mod:`.patch`               a rule as a patch of the source that is there, or as a snippet
:mod:`.consultation`        a patch after which an engine asks the run-time table
:mod:`.consultation_code`   the function that reads the table there
:mod:`.consultation_notes`  what stands before that patch, and its snippet
:mod:`.consultation_tests`  a test file for it
:mod:`.environment`         a rule as AITER's environment variables
:mod:`.stand_in`            run a function cut out of its file, on stand-ins for tensors and ranks
:mod:`.boundary_tests`      a test file of a rule's boundary cases for a patched engine
==========================  ======================================================================

Sources are parsed, never imported or run; the exception is a test file that the user runs, which
runs the one function that was patched. What a rule becomes inside an engine is decided in
:mod:`costmodel.rules.adapt`.
"""
