"""A report to attach to a pull request: Markdown with pictures, and one page for exploring.

=====================  ========================================================================
:mod:`.findings`       the numbers: recommendation, the engine's rule, regret, worth, hashes
:mod:`.pictures`       the figures
:mod:`.story`          the words, as blocks of plain text
:mod:`.blocks`         what a report is made of
:mod:`.markdown`       blocks as Markdown
:mod:`.markup`         blocks as HTML
:mod:`.explorer`       both arms at every captured batch size, for the page
:mod:`.page`           the self-contained page (``page.css``, ``page.js``)
:mod:`.directory`      writing it all, whole or not at all
=====================  ========================================================================
"""
