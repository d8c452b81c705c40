"""Dispatch rules as data: the conditions that they are made of, and every rule of the field."""
