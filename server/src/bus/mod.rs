//! Hints between replicas: one process needs none but the tail's own.
