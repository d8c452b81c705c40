"""From measured rows to the posterior of the model's parameters, and how good that is."""
