"""How an answer reads: text, words, HTML. Nothing is computed here."""
