"""A model server on a simulated engine: the engine is pure and knows no clock; the server around it answers HTTP."""
