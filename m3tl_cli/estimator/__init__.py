"""Estimators: what is fitted to the rows of tables instead of a network. Contract in base.py; one file per estimator."""
