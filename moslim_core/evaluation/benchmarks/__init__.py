"""Public benchmarks of chat models, by the names that `evaluation.suite` has for them. One is a module here."""
