"""Mutation testing: small changes of meaning, put in one at a time, and whether the tests near them fail."""
