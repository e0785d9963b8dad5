"""Printing: chapters as programs, command line, site, slides, course, the README's numbers."""
