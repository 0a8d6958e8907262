"""Admission: whether, and later when, a request may be scheduled. Queues, bands and fairness have their place here."""
