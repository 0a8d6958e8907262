"""Admission. Queues, fairness and saturation come here."""
