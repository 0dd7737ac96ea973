"""A training on Ray: who holds it, on which workers it runs, what happens when they die. The only room that trains with Ray."""
