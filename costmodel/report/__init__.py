"""A report to attach to a pull request: Markdown with pictures, and one page for exploring.

=====================  ========================================================================
:mod:`.case`           the numbers: recommendation, the engine's rule, regret, worth, hashes
:mod:`.pictures`       the figures by name, drawn when asked for
:mod:`.explorer`       both arms at every captured batch size, for the page
:mod:`.lead`           title and first screen: what, for whom, how much, how sure
:mod:`.commands`       the commands that give the numbers again, and those that check them
:mod:`.text`           what the templates are given
:mod:`.projects`       headings that each project's pull requests have
``templates/``         every sentence (``lead.j2`` and the other parts), and what gives it markup
:mod:`.markdown`       the report as Markdown, and its escaping
:mod:`.page`           the report as a self-contained page (``page.css``, ``page.js``)
:mod:`.directory`      writing it all, whole or not at all
=====================  ========================================================================
"""
